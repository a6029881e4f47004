"""Resume a pass over the blocks, or a training, where it was stopped.

The tensors of finished blocks and the hidden states that enter the next block are stored verbatim.
Recomputing them could change the last bit, and then everything after it; stored, a resumed pass
ends with the same bytes as an uninterrupted one. A pass saves at most every 30 seconds and spends
at
most 1/30 of its time on saving; a training spends at most 1/20.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ...checkpoints import InMemory, TensorRef, ranks
from ...checkpoints.store import build_ref, entry_of, tensors_of
from ..blocks.shared_state import has_state
from .temporary_place import TemporaryPlace

PAUSE_SECONDS = 30.0
"""Shortest time between two saves of the progress of a pass."""

SAVING_FRACTION = 1 / 30
"""Largest fraction of a pass's time that is spent on saving."""

_BESIDE = "beside."


class BlockRecords(Protocol):
    """Records that grow block by block beside the tensors."""

    def facts(self) -> Any:
        """The records so far, in types of JSON."""

    def recall(self, facts: Any) -> None:
        """Restore what `facts` returned."""


@dataclass(frozen=True)
class PassState:
    """The progress of a pass.

    Attributes:
        index: index of the next block.
        hidden, given: per batch, the input of that block after the rewritten blocks, and in the
            original model (None if the pass does not follow it), ``[batch, length, hidden_size]``.
        rewritten: finished tensors by name.
    """

    index: int
    hidden: Sequence[Tensor]
    given: Sequence[Tensor] | None
    rewritten: Mapping[str, Tensor | TensorRef]

    def of_rank(self, like: Sequence[Tensor]) -> PassState:
        """This rank's part of the progress of all ranks, in batches of the sizes of ``like``."""
        sizes = [len(states) for states in like]
        if ranks.size() == 1 and [len(states) for states in self.hidden] == sizes:
            return self

        def part(states: Sequence[Tensor]) -> list[Tensor]:
            return list(ranks.share(torch.cat(list(states))).split(sizes))

        given = None if self.given is None else part(self.given)
        return replace(self, hidden=part(self.hidden), given=given)


class Resuming:
    """Saves the progress of a pass and restores it.

    Args:
        place: storage for work in progress.
        notes: records that belong to the pass, always in the same order.
        beside: tensors by name that the pass produces beside those it rewrites; `load` fills it.
    """

    def __init__(
        self, place: ProgressStore, *notes: BlockRecords, beside: dict[str, Tensor] | None = None
    ) -> None:
        self._place = place
        self._keeping = Keeping(place, fraction=SAVING_FRACTION, pause_seconds=PAUSE_SECONDS)
        self._notes = notes
        self._beside = {} if beside is None else beside

    def load(self, device: torch.device, batches: int | None = None) -> PassState | None:
        """The progress of a stopped pass, on ``device``; None to start from the beginning.

        Args:
            batches: number of batches of the pass. Progress in another number of batches, from
                before the batch size was halved, is not used. On several ranks the progress is that
                of all of them, see `PassState.of_rank`.
        """
        found = self._keeping.load()
        if found is None:
            return None
        tensors, facts = found
        single = ranks.size() == facts.get("ranks", 1) == 1
        if single and batches is not None and facts["batches"] != batches:
            return None
        for notes, noted in zip(self._notes, facts["notes"], strict=True):
            notes.recall(noted)
        self._beside.update(_below(_BESIDE, tensors))
        given = facts["given"]
        return PassState(
            facts["index"],
            [tensors[f"hidden.{n}"].to(device) for n in range(facts["batches"])],
            [tensors[f"given.{n}"].to(device) for n in range(facts["batches"])] if given else None,
            {name: _restored(name, entry, tensors) for name, entry in facts["rewritten"]},
        )

    def kept(self, finished: Mapping[str, Tensor | TensorRef]) -> Mapping[str, Tensor | TensorRef]:
        """Finished tensors on disk instead of in memory, as `Keeping.kept`."""
        return self._keeping.kept(finished)

    def save(self, standing: PassState) -> None:
        """Save the progress, if the last save is long enough ago.

        Where blocks pass on more than hidden states nothing is saved, and the pass starts again.
        """
        if any(has_state(states) for states in standing.hidden):
            return
        self._keeping.save(lambda: self._told(standing))

    def exchange(self) -> None:
        """Give the records by linear, and the tensors beside, of every rank to all."""
        if ranks.size() == 1:
            return
        for notes in self._notes:
            for facts in ranks.exchanged(notes.facts()):
                if isinstance(facts, dict):
                    notes.recall(facts)
        self._beside.update(ranks.merged(self._beside))

    def _told(self, standing: PassState) -> tuple[dict[str, Any], dict[str, Any]]:
        given = standing.given
        standing = replace(
            standing,
            hidden=ranks.collected(standing.hidden),
            given=None if given is None else ranks.collected(given),
        )
        tensors: dict[str, Tensor | TensorRef] = {}
        tensors |= {f"hidden.{n}": states for n, states in enumerate(standing.hidden)}
        tensors |= {f"given.{n}": states for n, states in enumerate(standing.given or ())}
        tensors |= {_BESIDE + name: tensor for name, tensor in self._beside.items()}
        entries = []
        kept = isinstance(self._place, TensorPlace)
        for name, value in standing.rewritten.items():
            if kept and isinstance(value, TensorRef):
                entries.append([name, {"kept": True}])
                tensors[f"rewritten.{name}"] = value
                continue
            ref = InMemory(value) if isinstance(value, Tensor) else value
            entries.append([name, {**entry_of(ref), "bare": isinstance(value, Tensor)}])
            tensors |= {f"rewritten.{name}/{part}": t for part, t in tensors_of(ref).items()}
        return tensors, {
            "index": standing.index,
            "batches": len(standing.hidden),
            "ranks": ranks.size(),
            "given": standing.given is not None,
            "rewritten": entries,
            "notes": [notes.facts() for notes in self._notes],
        }


def _restored(
    name: str, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Tensor | TensorRef:
    if entry.get("kept"):
        return tensors[f"rewritten.{name}"]
    ref = build_ref(entry, _below(f"rewritten.{name}/", tensors))
    return ref.load() if entry["bare"] else ref


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with the prefix, without it."""
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}


# Largest fraction of a training's time spent on saving: a large model is not saved every step.
_TRAINING_FRACTION = 0.05


class ProgressStore(Protocol):
    """Storage for work in progress that outlives the process."""

    def load(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The tensors and facts saved last; None if nothing was saved."""

    def save(self, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Replace what was saved last."""


class _TakesTensors(Protocol):
    """Takes single tensors, which then need not be in memory."""

    def keep(self, ref: TensorRef) -> TensorRef:
        """Store a tensor; the returned reference reads it, and may be among those saved."""


@runtime_checkable
class TensorPlace(ProgressStore, _TakesTensors, Protocol):
    """Storage that also takes single tensors."""


class Keeping:
    """Saves work in progress, spending at most a fraction of the time on it.

    How often it saves depends on the machine, so resuming from any save must lead to the same
    bytes.

    Args:
        place: storage; none, or one that is false, saves nothing.
        fraction: largest fraction of the time spent on saving; default 1/20.
        pause_seconds: shortest time between two saves.
    """

    def __init__(
        self,
        place: ProgressStore | None = None,
        *,
        fraction: float | None = None,
        pause_seconds: float = 0.0,
    ) -> None:
        self._place = place or None
        self._tensors: _TakesTensors | None = None
        if isinstance(place, TensorPlace):
            self._tensors = place
        elif self._place is None:
            self._tensors = TemporaryPlace()
        self._fraction, self._pause_seconds = (
            _TRAINING_FRACTION if fraction is None else fraction
        ), pause_seconds
        self._saved_at, self._took = time.monotonic(), 0.0

    def load(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """What was saved before the work was interrupted; None to start from the beginning."""
        return None if self._place is None else self._place.load()

    def kept(self, finished: Mapping[str, Tensor | TensorRef]) -> Mapping[str, Tensor | TensorRef]:
        """Finished tensors on disk instead of in memory.

        They are in the place for progress, if it takes single tensors, and must be among the
        tensors of the next `save`; among the temporary files, if nothing is saved.
        """
        if self._tensors is None:
            return finished
        return {
            name: self._tensors.keep(InMemory(value) if isinstance(value, Tensor) else value)
            for name, value in finished.items()
        }

    def save(self, made: Callable[[], tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
        """Save the tensors and facts that ``made`` returns, if enough time was worked since."""
        start = time.monotonic()
        if self._place is None or not ranks.from_first(self._is_due):
            return
        self._place.save(*made())
        self._saved_at = time.monotonic()
        self._took = self._saved_at - start

    def _is_due(self) -> bool:
        worked = time.monotonic() - self._saved_at
        return worked >= self._pause_seconds and worked * self._fraction >= self._took
