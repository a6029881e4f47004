import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from torch import Tensor

from birdbone.checkpoints import Checkpoint
from birdbone.errors import DataError, ModelError
from birdbone.models.reading.opening import as_checkpoint
from birdbone.models.sampling.sampled_batches import SampledBatch, read_state
from birdbone.models.sampling.self_text import sample_text
from birdbone.models.sampling.starts import Starts

TOKENIZER = tiny_tokenizer()


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return as_checkpoint(tiny_model())


class Kept:
    """A place for work in progress, in memory; saves every time."""

    def __init__(self) -> None:
        self.state: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.state

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.state = dict(tensors), json.loads(json.dumps(facts))

    def batches(self) -> list[SampledBatch]:
        assert self.state is not None
        return read_state(*self.state)


def _sample(checkpoint: Checkpoint, seed: int = 0) -> tuple[str, ...]:
    return sample_text(checkpoint, TOKENIZER, 300, seed=seed, batch_size=8)


def test_the_same_seed_gives_the_same_documents(checkpoint: Checkpoint) -> None:
    first = _sample(checkpoint)
    torch.manual_seed(123)
    assert _sample(checkpoint) == first
    assert _sample(checkpoint, seed=1) != first


def test_as_many_tokens_as_asked_for_of_different_documents(checkpoint: Checkpoint) -> None:
    told: list[tuple[int, int]] = []
    documents = sample_text(
        checkpoint,
        TOKENIZER,
        300,
        seed=0,
        batch_size=8,
        announce=lambda done, total: told.append((done, total)),
    )
    assert sum(len(TOKENIZER(text)["input_ids"]) for text in documents) > 250
    assert len(set(documents)) == len(documents)
    assert not any("</s>" in text for text in documents)
    assert {total for _, total in told} == {300}


def test_a_smaller_sample_is_the_beginning_of_a_greater_one(checkpoint: Checkpoint) -> None:
    few = sample_text(checkpoint, TOKENIZER, 100, seed=0, batch_size=4)
    many = sample_text(checkpoint, TOKENIZER, 500, seed=0, batch_size=4)
    assert len(few) < len(many)
    assert many[: len(few)] == few


def test_an_interrupted_sample_goes_on_after_its_last_batch(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sample_text(checkpoint, TOKENIZER, 900, seed=0, batch_size=4)
    kept = Kept()
    first = sample_text(checkpoint, TOKENIZER, 300, seed=0, batch_size=4, unfinished=kept)
    drawn: list[int] = []
    draw = Starts.draw
    monkeypatch.setattr(Starts, "draw", lambda *a, **k: drawn.append(1) or draw(*a, **k))
    assert sample_text(checkpoint, TOKENIZER, 300, seed=0, batch_size=4, unfinished=kept) == first
    assert not drawn
    resumed = sample_text(checkpoint, TOKENIZER, 900, seed=0, batch_size=4, unfinished=kept)
    assert resumed == whole
    few = sample_text(checkpoint, TOKENIZER, 100, seed=0, batch_size=4, unfinished=kept)
    assert few == whole[: len(few)]


def test_the_second_batch_and_every_eighth_after_it_are_conversations(
    checkpoint: Checkpoint,
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>answer {% endif %}"
    )
    for seed in (0, 1, 2):
        kept = Kept()
        sample_text(checkpoint, tokenizer, 2000, seed=seed, batch_size=4, unfinished=kept)
        chats = [any(each.num_given for each in batch.kept) for batch in kept.batches()]
        assert len(chats) > 9
        assert [number for number, chat in enumerate(chats) if chat] == [
            number for number in range(len(chats)) if number % 8 == 1
        ]


def test_what_watches_can_stop_it(checkpoint: Checkpoint) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_text(checkpoint, TOKENIZER, 300, seed=0, batch_size=2, announce=stop)


def test_a_model_whose_logits_are_nan_is_refused() -> None:
    model = tiny_model()
    model.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(ModelError, match=r"not finite.*data='pydoc'"):
        _sample(as_checkpoint(model))


def test_a_model_that_only_repeats_itself_is_refused() -> None:
    model = tiny_model()
    # Every token has the same embedding, blocks change nothing, and the head prefers one token.
    model.model.embed_tokens.weight.data.fill_(1.0)
    for block in model.model.layers:
        block.self_attn.o_proj.weight.data.zero_()
        block.mlp.down_proj.weight.data.zero_()
    model.model.norm.weight.data.fill_(1.0)
    model.lm_head.weight.data.zero_()
    model.lm_head.weight.data[7] = 10.0
    with pytest.raises(DataError, match=r"nearly all were too short.*data='pydoc'"):
        _sample(as_checkpoint(model))
