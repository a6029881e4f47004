"""What differs between two models, and by how much: a step beside a step, or folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..checkpoints import Checkpoint, Quantized, TensorRef, diff
from ..checkpoints.user_paths import user_path
from ..models.reading.opening import open_checkpoint
from ..models.reading.sources import find_model
from .journal import Journal, parse_step


@dataclass(frozen=True)
class TensorChange:
    """One tensor that is not the same in both.

    Attributes:
        relative: Frobenius norm of the difference over that of the first; None where shapes
            differ, or the first is all zeros.
        greatest: the greatest absolute difference; None where shapes differ.
        zeros: share of values that are zero, in the first and in the second.
        shapes, kinds: in the first and in the second; a kind is a dtype, or int4 and the like.
    """

    name: str
    relative: float | None
    greatest: float | None
    zeros: tuple[float, float]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    kinds: tuple[str, str]


@dataclass(frozen=True)
class Comparison:
    """Two models side by side; pairs are of the first and the second.

    Attributes:
        changed: tensors in both that differ, in the order of the second.
        added, removed: tensors in only one.
        config: keys that differ, with both values; None where one has no such key.
        files: tokenizer files and the like that differ.
        num_same: tensors that are the same.
        parameters, num_bytes: of all tensors.
    """

    changed: tuple[TensorChange, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    config: Mapping[str, tuple[Any, Any]]
    files: tuple[str, ...]
    num_same: int
    parameters: tuple[int, int]
    num_bytes: tuple[int, int]

    def as_dict(self) -> dict[str, Any]:
        """In types JSON knows."""
        return asdict(self)


def model_of(text: str) -> Checkpoint:
    """The model that ``RUN:STEP``, or whatever `load` takes, stands for.

    Raises:
        ModelError, RunFolderError, CheckpointError: there is none, or it is damaged.
    """
    folder, _, number = text.rpartition(":")
    if number.isdecimal() and user_path(folder).is_dir():
        path, step = parse_step(text)
        journal = Journal(path)
        return journal.checkpoint(journal.step(step))
    return open_checkpoint(find_model(text))


def compare(first: Checkpoint, second: Checkpoint) -> Comparison:
    """Read both models tensor by tensor, those that differ only."""
    found = diff(first, second)
    old, new = first.all_refs, second.all_refs
    changed = [name for name in new if name in set(found.changed)]
    return Comparison(
        changed=tuple(_change(name, old[name], new[name]) for name in changed),
        added=found.added,
        removed=found.removed,
        config={key: (first.config.get(key), second.config.get(key)) for key in found.config},
        files=found.files,
        num_same=len(new) - len(changed) - len(found.added),
        parameters=(first.num_parameters, second.num_parameters),
        num_bytes=(first.num_bytes, second.num_bytes),
    )


def _change(name: str, first: TensorRef, second: TensorRef) -> TensorChange:
    before, after = first.load().float(), second.load().float()
    relative = greatest = None
    if before.shape == after.shape:
        off, size = (after - before).abs(), float(before.norm())
        greatest = float(off.max()) if off.numel() else 0.0
        relative = float(off.norm()) / size if size else None
    return TensorChange(
        name=name,
        relative=relative,
        greatest=greatest,
        zeros=(_zeros(before), _zeros(after)),
        shapes=(first.shape, second.shape),
        kinds=(_kind(first), _kind(second)),
    )


def _zeros(tensor: torch.Tensor) -> float:
    return 1 - int(torch.count_nonzero(tensor)) / max(tensor.numel(), 1)


def _kind(ref: TensorRef) -> str:
    if isinstance(ref, Quantized):
        return f"int{ref.bits}"
    kind: str = getattr(ref, "kind", str(ref.dtype).removeprefix("torch."))
    return kind
