"""How a pass over the blocks goes on where it was stopped: in the very bytes it would have had.

Kept are the finished blocks' tensors and the hidden states that enter the next block, verbatim:
made anew, by other kernels on other memory, they might differ in the last bit, and then so would
all that follows. A pass saves at most every half minute, and seldom enough that saving takes no
more than a thirtieth of its time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..checkpoints import InMemory, TensorRef
from ..checkpoints.store import entry_of, parts_of, put_together
from .keeping import Keeping, Unfinished

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
    ref = put_together(entry, _below(f"rewritten.{name}/", tensors))
    return ref.load() if entry["bare"] else ref


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin so, by the rest of their names."""
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
