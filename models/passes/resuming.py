"""How a pass over the blocks goes on where it was stopped: in the very bytes it would have had.

Kept are the finished blocks' tensors and the hidden states that enter the next block, verbatim:
made anew, by other kernels on other memory, they might differ in the last bit, and then so would
all that follows. A pass saves at most every half minute, and seldom enough that saving takes no
more than a thirtieth of its time.

Keeping the place of a long training: often enough to lose little, and at little cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ...checkpoints import InMemory, TensorRef
from ...checkpoints.store import build_ref, entry_of, parts_of

_PAUSE_SECONDS = 30.0
_SHARE = 1 / 30  # of the time that is worked
_BESIDE = "beside."


class Notes(Protocol):
    """Whoever gathers something block by block beside the tensors."""

    def facts(self) -> Any:
        """What was gathered so far, in types JSON knows."""

    def recall(self, facts: Any) -> None:
        """Take up what `facts` gave."""


@dataclass(frozen=True)
class Standing:
    """How far a pass is.

    Attributes:
        index: of the next block.
        hidden, given: per batch, what enters it after rewritten blocks, and in the model as given
            (None where the pass does not follow that).
        rewritten: finished tensors by name.
    """

    index: int
    hidden: Sequence[Tensor]
    given: Sequence[Tensor] | None
    rewritten: Mapping[str, Tensor | TensorRef]


class Resuming:
    """Keeps a pass in a place, and finds it there again.

    Args:
        place: where.
        notes: whose facts belong to the pass, always in the same order.
        beside: tensors by name that the pass gathers beside those it rewrites; `load` puts back
            what there was.
    """

    def __init__(
        self, place: Unfinished, *notes: Notes, beside: dict[str, Tensor] | None = None
    ) -> None:
        self._keeping = Keeping(place, share=_SHARE, pause_seconds=_PAUSE_SECONDS)
        self._notes = notes
        self._beside = {} if beside is None else beside

    def load(self, device: torch.device) -> Standing | None:
        """Where the pass was stopped, on ``device``; None where it is to begin."""
        found = self._keeping.load()
        if found is None:
            return None
        tensors, facts = found
        for notes, noted in zip(self._notes, facts["notes"], strict=True):
            notes.recall(noted)
        self._beside.update(_below(_BESIDE, tensors))
        given = facts["given"]
        return Standing(
            facts["index"],
            [tensors[f"hidden.{n}"].to(device) for n in range(facts["batches"])],
            [tensors[f"given.{n}"].to(device) for n in range(facts["batches"])] if given else None,
            {name: _restored(name, entry, tensors) for name, entry in facts["rewritten"]},
        )

    def save(self, standing: Standing) -> None:
        """Keep how far the pass is, if the last time is long enough ago."""
        self._keeping.save(lambda: self._told(standing))

    def _told(self, standing: Standing) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"hidden.{n}": states for n, states in enumerate(standing.hidden)}
        tensors |= {f"given.{n}": states for n, states in enumerate(standing.given or ())}
        tensors |= {_BESIDE + name: tensor for name, tensor in self._beside.items()}
        entries = []
        for name, value in standing.rewritten.items():
            ref = InMemory(value) if isinstance(value, Tensor) else value
            entries.append([name, {**entry_of(ref), "bare": isinstance(value, Tensor)}])
            tensors |= {f"rewritten.{name}/{part}": t for part, t in parts_of(ref).items()}
        return tensors, {
            "index": standing.index,
            "batches": len(standing.hidden),
            "given": standing.given is not None,
            "rewritten": entries,
            "notes": [notes.facts() for notes in self._notes],
        }


def _restored(
    name: str, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Tensor | TensorRef:
    ref = build_ref(entry, _below(f"rewritten.{name}/", tensors))
    return ref.load() if entry["bare"] else ref


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin so, by the rest of their names."""
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}


# Of the time that is worked; so that a large model is not written out at every step.
_TRAINING_SHARE = 0.05


class Unfinished(Protocol):
    """A place for work in progress that outlives the process."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved last, tensors and facts; None where nothing was."""

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep this instead of what was saved last."""


class Keeping:
    """Work in progress kept in a place, or nowhere; saving takes a share of the time at most.

    How often that is depends on the machine, so what is saved must lead to the same bytes wherever
    the work was broken off.

    Args:
        share: a twentieth where none is given.
        pause_seconds: at least this long lies between two saves.
    """

    def __init__(
        self,
        place: Unfinished | None = None,
        *,
        share: float | None = None,
        pause_seconds: float = 0.0,
    ) -> None:
        self._place = place
        self._share, self._pause_seconds = (
            _TRAINING_SHARE if share is None else share
        ), pause_seconds
        self._saved_at, self._took = time.monotonic(), 0.0

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was kept when the work was broken off; None where it begins."""
        return None if self._place is None else self._place.load()

    def save(self, made: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]]) -> None:
        """Keep what ``made`` gives, tensors and facts, if enough was done since the last time."""
        start = time.monotonic()
        worked = start - self._saved_at
        if self._place is None or worked < self._pause_seconds or worked * self._share < self._took:
            return
        self._place.save(*made())
        self._saved_at = time.monotonic()
        self._took = self._saved_at - start
