"""Examples of a saved model: which prompts are chosen, and what the record says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tiny import tiny_checkpoint, tiny_model, tiny_tokenizer, tiny_windows
from tiny_verdicts import verdict_on

from birdbone.checkpoints import Checkpoint
from birdbone.links.saving.examples import Examples, Prompt, choose_examples, examples_record
from birdbone.links.saving.settings import SaveSettings
from birdbone.models.evaluation.fresh_process import Measurement
from birdbone.models.reading.opening import as_checkpoint
from birdbone.texts import Windows
from birdbone.texts.worst_windows import WorstWindow

TEMPLATE = (
    "<s>{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
TEXTS = {
    "heldout": tiny_windows(3, 40),
    "elsewhere": tiny_windows(2, 40, seed=1, text="other words"),
}


def chat_checkpoint() -> Checkpoint:
    """A tiny model with a chat template and a context that holds a conversation."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return as_checkpoint(tiny_model(max_position_embeddings=256), tokenizer, source="tiny/chat")


def settings(**more: Any) -> SaveSettings:
    return SaveSettings(path="light", **more)


def origins(checkpoint: Checkpoint, **more: Any) -> list[str]:
    return [each.origin for each in choose_examples(checkpoint, TEXTS, settings(**more)).prompts]


def test_prompts_come_from_both_texts_and_the_chat_template_in_turns() -> None:
    wanted = ["heldout", "elsewhere", "chat", "heldout", "elsewhere", "chat", "heldout"]
    assert origins(chat_checkpoint()) == wanted[:3]
    assert origins(chat_checkpoint(), samples=9) == wanted
    assert origins(tiny_checkpoint()) == ["heldout", "elsewhere", "heldout"]


def test_a_prompt_is_the_beginning_of_a_window() -> None:
    first = choose_examples(chat_checkpoint(), TEXTS, settings()).prompts[0]
    assert first.tokens == tuple(TEXTS["heldout"].tokens[0, :32].tolist())


def test_a_chat_prompt_ends_where_the_answer_begins() -> None:
    checkpoint = chat_checkpoint()
    found = choose_examples(checkpoint, TEXTS, settings()).prompts[2]
    text = tiny_tokenizer().decode(list(found.tokens))
    assert "user:" in text
    assert "Why is the sky blue?" in text
    assert text.endswith("assistant:")


def test_without_permission_to_keep_text_there_is_none_of_it() -> None:
    found = choose_examples(chat_checkpoint(), TEXTS, settings(proof_tokens=0))
    assert [each.origin for each in found.prompts] == ["sentence", "chat", "sentence"]
    assert found.texts == {}


def test_none_are_chosen_where_none_are_asked_for() -> None:
    assert choose_examples(chat_checkpoint(), TEXTS, settings(samples=0)).prompts == ()


@pytest.mark.parametrize("more", [{"compare": False}, {}])
def test_what_keeps_samples_away_is_recorded(more: dict[str, Any]) -> None:
    checkpoint = chat_checkpoint() if more else replace(chat_checkpoint(), files={})
    examples = choose_examples(checkpoint, TEXTS, settings(**more))
    record = examples_record(examples, Measurement({}, {}), None, "")
    reason = "compare=False" if more else "no tokenizer"
    assert record["samples"] == []
    assert reason in record["samples_missing"]


def test_samples_are_text_up_to_the_token_that_ends_it() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer("the thing", add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    examples = Examples(tokenizer, (Prompt("chat", tuple(ids)),))
    found = Measurement({}, {}, samples={"dense": [[*ids, end, *ids]], "light": ["as llama.cpp"]})
    record = examples_record(examples, found, None, "")
    words = tokenizer.decode(ids)
    assert record["samples"] == [
        {"origin": "chat", "prompt": words, "dense": words, "light": "as llama.cpp"}
    ]


def with_window(windows: Windows, worst: WorstWindow) -> dict[str, Any]:
    """The record of one worst window of held-out text."""
    examples = Examples(tiny_tokenizer(), texts={"heldout": windows})
    found = Measurement({}, {}, worst={"heldout": (worst,)})
    (entry,) = examples_record(examples, found, None, "")["worst_windows"]["heldout"]
    return dict(entry)


def test_a_worst_window_is_shown_around_the_token_that_differs_most() -> None:
    windows, tokenizer = TEXTS["heldout"], tiny_tokenizer()
    row = windows.tokens[1].tolist()
    entry = with_window(windows, WorstWindow(1, 0.123456, 0.5, 36))
    assert entry["mean_kl"] == 0.1235
    assert entry["before"] == tokenizer.decode(row[4:36])
    assert entry["token"] == tokenizer.decode(row[36:37])
    assert entry["after"] == tokenizer.decode(row[37:])


def test_the_verdict_in_memory_stands_in_if_it_is_of_the_same_model() -> None:
    windows = TEXTS["heldout"]
    verdict = verdict_on(windows, 10.0, "this model")
    worst = (WorstWindow(2, 0.5, 0.25, 3),)
    verdict = replace(verdict, heldout=replace(verdict.heldout, worst=worst))
    none = Measurement({}, {})
    found = examples_record(Examples(), none, verdict, "this model")["worst_windows"]
    figures = {"window": 2, "mean_kl": 0.5, "rise": 0.25, "measured_on": "model in memory"}
    assert found == {"heldout": [figures]}
    assert examples_record(Examples(), none, verdict, "another")["worst_windows"] == {}
