"""Examples of a saved model for its record: greedy continuations, and its worst windows as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...checkpoints import Checkpoint
from ...contexts.verdict import Verdict
from ...errors import ModelError
from ...models.blocks.empty_model import text_config
from ...models.evaluation.fresh_process import Measurement
from ...models.reading.tokenizer import load_tokenizer
from ...models.sampling.starts import chat_turn
from ...texts import Windows
from ...texts.worst_windows import WorstWindow
from .settings import SaveSettings

_PROMPT_TOKENS = 32
_BEFORE, _AFTER = 32, 8  # tokens shown around the token with the largest divergence
_SENTENCES = ("The capital of France is", "Once upon a time, in a small village by the sea,")
_QUESTIONS = (
    "Why is the sky blue? Answer in two sentences.",
    "Name three fruits and their colours.",
)


@dataclass(frozen=True)
class Prompt:
    """Token ids that both models continue.

    Attributes:
        origin: where they are from: ``heldout``, ``elsewhere``, ``sentence`` or ``chat``.
    """

    origin: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Examples:
    """What the examples of one saved model are made of.

    Attributes:
        tokenizer: of the model; None if it has none, or nothing is to be recorded as text.
        prompts: prompts to continue.
        texts: the texts of which words may be recorded, by context key.
        missing: why there are no prompts; None if there are, or none were asked for.
    """

    tokenizer: PreTrainedTokenizerBase | None = None
    prompts: tuple[Prompt, ...] = ()
    texts: Mapping[str, Windows] = field(default_factory=dict)
    missing: str | None = None


def choose_examples(
    checkpoint: Checkpoint, texts: Mapping[str, Windows], settings: SaveSettings
) -> Examples:
    """Choose prompts from held-out text, from elsewhere and for the chat template, in turns.

    With ``proof_tokens=0`` no words of the texts are recorded; built-in sentences take their place.
    """
    kept = texts if settings.proof_tokens else {}
    if not settings.samples and not kept:
        return Examples()
    try:
        tokenizer = load_tokenizer(checkpoint)
    except ModelError:
        return Examples(missing="No continuations: the model has no tokenizer that can be read.")
    if not settings.samples:
        return Examples(tokenizer, texts=kept)
    if not settings.compare:
        missing = "No continuations: with compare=False the original model was not opened."
        return Examples(tokenizer, texts=kept, missing=missing)
    room = getattr(text_config(checkpoint), "max_position_embeddings", None) or _PROMPT_TOKENS * 2
    length = min(_PROMPT_TOKENS, room // 2)
    sources = [_beginnings(name, windows, length) for name, windows in kept.items()]
    sources = sources or [_sentences(tokenizer)]
    turns = zip_longest(*sources, _chats(tokenizer))
    every = [
        each for turn in turns for each in turn if each is not None and len(each.tokens) < room
    ]
    return Examples(tokenizer, tuple(every[: settings.samples]), kept)


def _beginnings(text: str, windows: Windows, length: int) -> Iterator[Prompt]:
    for row in windows.tokens:
        yield Prompt(text, tuple(row[:length].tolist()))


def _sentences(tokenizer: PreTrainedTokenizerBase) -> Iterator[Prompt]:
    for sentence in _SENTENCES:
        yield Prompt("sentence", tuple(tokenizer(sentence)["input_ids"]))


def _chats(tokenizer: PreTrainedTokenizerBase) -> Iterator[Prompt]:
    """Questions in the model's chat template; none if it has no usable one."""
    turn = chat_turn(tokenizer)
    for question in _QUESTIONS if turn is not None else ():
        assert turn is not None
        asked = tokenizer(question, add_special_tokens=False)["input_ids"]
        yield Prompt("chat", (*turn[0], *asked, *turn[1]))


def examples_record(
    examples: Examples, found: Measurement, verdict: Verdict | None, checkpoint: str
) -> dict[str, Any]:
    """The entries ``samples`` and ``worst_windows`` of a record, as types that JSON can represent.

    Args:
        verdict: used for worst windows that the fresh process did not measure.
        checkpoint: id of the saved model; a verdict on another one is ignored.
    """
    return {
        "samples": _samples(examples, found),
        **({} if examples.missing is None else {"samples_missing": examples.missing}),
        "worst_windows": _worst_windows(examples, found, verdict, checkpoint),
    }


def _samples(examples: Examples, found: Measurement) -> list[dict[str, str]]:
    tokenizer, sides = examples.tokenizer, found.samples
    if tokenizer is None or not {"dense", "light"} <= sides.keys():
        return []
    return [
        {
            "origin": prompt.origin,
            "prompt": _decoded(tokenizer, prompt.tokens),
            "dense": _words(tokenizer, dense),
            "light": _words(tokenizer, light),
        }
        for prompt, dense, light in zip(
            examples.prompts, sides["dense"], sides["light"], strict=True
        )
    ]


def _words(tokenizer: PreTrainedTokenizerBase, found: Sequence[int] | str) -> str:
    """A continuation as text, up to the token that ends it."""
    if isinstance(found, str):
        return found
    end = tokenizer.eos_token_id
    ids = list(found)
    ended = ids.index(end) if end in ids else len(ids)
    return str(tokenizer.decode(ids[:ended], skip_special_tokens=True))


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids)))


def _worst_windows(
    examples: Examples, found: Measurement, verdict: Verdict | None, checkpoint: str
) -> dict[str, list[dict[str, Any]]]:
    worst: dict[str, Sequence[WorstWindow]] = dict(found.worst)
    measured = "saved model"
    if not worst and verdict is not None and verdict.checkpoint == checkpoint:
        worst = {name: judged.worst for name, judged in verdict.texts.items() if judged.worst}
        measured = "model in memory"
    return {
        name: [_worst_window(each, name, measured, examples) for each in windows]
        for name, windows in worst.items()
    }


def _worst_window(
    each: WorstWindow, text: str, measured: str, examples: Examples
) -> dict[str, Any]:
    """One window: figures to 4 digits, and the words around the token that differs most."""
    entry = {
        "window": each.window,
        "mean_kl": float(f"{each.mean_kl:.4g}"),
        "rise": float(f"{each.rise:.4g}"),
        "measured_on": measured,
    }
    windows, tokenizer, place = examples.texts.get(text), examples.tokenizer, each.position
    if windows is None or tokenizer is None:
        return entry
    ids = windows.tokens[each.window].tolist()
    return {
        **entry,
        "before": _decoded(tokenizer, ids[max(0, place - _BEFORE) : place]),
        "token": _decoded(tokenizer, ids[place : place + 1]),
        "after": _decoded(tokenizer, ids[place + 1 : place + 1 + _AFTER]),
    }
