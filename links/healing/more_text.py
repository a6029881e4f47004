"""Healing windows beyond those of calibrate: text sampled from the original model.

What was decided and sampled is kept with the work in progress, so that a resumed run trains on the
same windows although it could measure another speed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...checkpoints import TensorRef, ranks
from ...contexts.flow import Healable
from ...engine import Unfinished, announce
from ...models.blocks.empty_model import text_config
from ...models.passes.resuming import TensorPlace
from ...models.reading.tokenizer import load_tokenizer
from ...models.sampling.self_text import sample_text
from ...texts import Windows, check_vocabulary, copied_windows, pack_windows
from .budget import MARGIN, decide
from .settings import HealSettings

# Added to the seed: text that calibrate samples with the same seed is other text.
_OTHER_SEED = 1 << 32
_TEXT = "drawn"


@dataclass(frozen=True)
class HealingText:
    """The windows to train on, those to judge by last.

    Attributes:
        windows: sampled ones, then those of calibrate.
        place: for the work in progress of training.
        metrics: for the history.
    """

    windows: Windows
    place: Unfinished
    metrics: Mapping[str, Any]


class _Memory:
    """A place for work in progress that does not outlive the process."""

    def __init__(self) -> None:
        self.state: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.state

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.state = dict(tensors), dict(facts)


class _Stage:
    """The work in progress of one stage, kept together with what earlier stages found.

    Args:
        place: of the whole link.
        name: of the stage; what another stage saved is not loaded.
        found: tensors and facts of earlier stages, saved each time.
    """

    def __init__(
        self, place: Unfinished, name: str, found: tuple[Mapping[str, Tensor], Mapping[str, Any]]
    ) -> None:
        self._place, self._name, self._found = place, name, found

    def __bool__(self) -> bool:
        return bool(self._place)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        state = self._place.load()
        if state is None or state[1].get("stage") != self._name or state[1]["inner"] is None:
            return None
        tensors, facts = state
        own = {name: tensor for name, tensor in tensors.items() if name not in self._found[0]}
        return own, facts["inner"]

    def save(self, tensors: Mapping[str, Any], facts: Mapping[str, Any] | None) -> None:
        found, noted = self._found
        self._place.save({**tensors, **found}, {**noted, "stage": self._name, "inner": facts})


class _KeepingStage(_Stage):
    """A stage whose place also takes single tensors."""

    def __init__(
        self, place: TensorPlace, name: str, found: tuple[Mapping[str, Tensor], Mapping[str, Any]]
    ) -> None:
        super().__init__(place, name, found)
        self._tensors = place

    def keep(self, ref: TensorRef) -> TensorRef:
        """Store a tensor; the returned reference reads it."""
        return self._tensors.keep(ref)


def _stage(
    place: Unfinished, name: str, found: tuple[Mapping[str, Tensor], Mapping[str, Any]]
) -> _Stage:
    if isinstance(place, TensorPlace):
        return _KeepingStage(place, name, found)
    return _Stage(place, name, found)


def healing_text(
    ctx: Healable, settings: HealSettings, heldout: int, place: Unfinished
) -> HealingText:
    """The windows of the context and, if settings ask for them, windows that rank 0 samples.

    Raises:
        ModelError, DataError: the original model cannot be sampled from.
    """
    if settings.tokens is None and settings.time is None:
        return HealingText(ctx["healing"], place, {})
    drawn, facts = ranks.from_first(lambda: _found(ctx, settings, heldout, place))
    training = _stage(place, "training", ({_TEXT: drawn}, facts))
    there = ctx["healing"]
    windows = Windows(torch.cat([drawn, there.tokens]), f"self + {there.text}")
    metrics = {"sampled_windows": len(drawn), "healing_windows": windows.num_windows}
    if facts["rate"] is not None:
        metrics |= {
            "tokens_sampled_per_second": facts["rate"],
            "expected_seconds_per_window": facts["window_seconds"],
        }
    return HealingText(windows, training, metrics)


def _found(
    ctx: Healable, settings: HealSettings, heldout: int, place: Unfinished
) -> tuple[Tensor, dict[str, Any]]:
    """The windows sampled, now or by an interrupted run, and what was decided about them."""
    state = place.load()
    if state is None:
        facts = _decided(ctx, settings, heldout, place)
    else:
        facts = {name: state[1][name] for name in ("windows", "rate", "window_seconds")}
    if state is not None and state[1]["stage"] == "training":
        return state[0][_TEXT], facts
    drawn = _drawn(ctx, settings, facts["windows"], _stage(place, "sampling", ({}, facts)))
    _stage(place, "training", ({_TEXT: drawn}, facts)).save({}, None)
    return drawn, facts


def _decided(
    ctx: Healable, settings: HealSettings, heldout: int, place: Unfinished
) -> dict[str, Any]:
    """How many windows to sample; kept, with a first batch if one was sampled to time it."""
    first = _Memory()

    def sample() -> int:
        _sample(ctx, settings, 1, first)
        return 0 if first.state is None else len(first.state[0]["sampled"])

    budget = decide(ctx, settings, heldout, sample)
    facts = {
        "windows": budget.windows,
        "rate": budget.sampling_rate,
        "window_seconds": budget.window_seconds,
    }
    if settings.time is not None and not budget.windows:
        warnings.warn(
            f"heal(time='{settings.time}') leaves no time to train on more than the "
            f"{ctx['healing'].num_windows} windows there are, and none to sample text; give more "
            f"time, or leave it out",
            stacklevel=2,
        )
    stage = _stage(place, "sampling", ({}, facts))
    stage.save(*(first.state or ({}, None)))
    return facts


def _drawn(ctx: Healable, settings: HealSettings, count: int, place: Unfinished) -> Tensor:
    """Sampled windows ``[count, length]``, none of which is copied from a text that judges."""
    there = ctx["healing"]
    if not count:
        return there.tokens[:0]
    tokenizer = load_tokenizer(ctx["dense"])
    documents = _sample(ctx, settings, math.ceil(MARGIN * count * there.length), place)
    found = pack_windows(documents, tokenizer, length=there.length, limit=None, text="self")
    check_vocabulary(found, text_config(ctx["dense"]).vocab_size)
    judging = [ctx["heldout"], *([ctx["elsewhere"]] if "elsewhere" in ctx else [])]
    copied = {number for each in judging for number in copied_windows(found, each)}
    kept = [number for number in range(found.num_windows) if number not in copied]
    return found.tokens[kept[:count]].clone()


def _sample(
    ctx: Healable, settings: HealSettings, num_tokens: int, place: Unfinished
) -> tuple[str, ...]:
    return sample_text(
        ctx["dense"],
        load_tokenizer(ctx["dense"]),
        num_tokens,
        seed=settings.seed + _OTHER_SEED,
        unfinished=place,
        announce=lambda done, total: announce("tokens sampled", done, total),
    )
