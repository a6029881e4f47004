"""Differences between two models: steps of run folders, saved folders, GGUF files or hub ids."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ..checkpoints import Checkpoint, Converted, TensorRef, diff, open_folder
from ..checkpoints.user_paths import user_path
from ..models.reading.gguf_header import read_tensors
from ..models.reading.opening import keeps_codes, open_checkpoint, quantized_by
from ..models.reading.sources import Source, find_model, read_config
from .journal import Journal, parse_step


@dataclass(frozen=True)
class TensorChange:
    """One tensor that differs.

    Attributes:
        relative: Frobenius norm of the difference divided by that of the first tensor; None if the
            shapes differ, the first tensor is all zeros, or either holds NaN or infinity.
        greatest: maximum absolute difference; None if the shapes differ, or for NaN or infinity.
        zeros: fraction of values that are zero, in the first and in the second.
        shapes, kinds: in the first and in the second; a kind is a dtype, an integer grid such as
            int4, or the name of a format that is read as values, such as gguf.
    """

    name: str
    relative: float | None
    greatest: float | None
    zeros: tuple[float, float]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    kinds: tuple[str, str]


@dataclass(frozen=True)
class ModelComparison:
    """The differences between two models; pairs are (first, second).

    Attributes:
        changed: tensors of both models that differ, in the order of the second.
        added, removed: tensors that only one model has.
        config: config keys that differ, with both values; None where a model lacks the key.
        files: tokenizer files and other small files that differ.
        num_same: number of equal tensors.
        parameters, num_bytes: totals over all tensors.
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
        """As types that JSON can represent."""
        return asdict(self)


@dataclass(frozen=True)
class Side:
    """One model of a comparison.

    Attributes:
        checkpoint: its tensors, in the form they are stored in where that can be read.
        read_as_values: for tensors that can only be read as float32 values, what they are stored
            as, such as gguf or bitsandbytes.
        num_bytes: bytes of the tensors as stored.
    """

    checkpoint: Checkpoint
    read_as_values: Mapping[str, str]
    num_bytes: int


def model_of(text: str) -> Side:
    """The model that ``RUN:STEP``, or anything `load` accepts, refers to.

    Raises:
        ModelError, RunFolderError, CheckpointError: there is none, or it is damaged.
    """
    folder, _, number = text.rpartition(":")
    if number.isdecimal() and user_path(folder).is_dir():
        path, step = parse_step(text)
        journal = Journal(path)
        checkpoint = journal.checkpoint(journal.step(step))
        return Side(checkpoint, {}, checkpoint.num_bytes)
    return _saved_model(find_model(text))


def _saved_model(source: Source) -> Side:
    if source.gguf is not None:
        opened = open_checkpoint(source)
        num_bytes = sum(int(tensor.n_bytes) for tensor in read_tensors(source))
        return Side(opened, dict.fromkeys(opened.all_refs, "gguf"), num_bytes)
    method = quantized_by(source)
    if method is None or keeps_codes(source):
        opened = open_checkpoint(source, dequantize=method is None)
        return Side(opened, {}, opened.num_bytes)
    return _dequantized(source, method)


def _dequantized(source: Source, method: str) -> Side:
    """A folder whose quantised weights are read as values; its other tensors keep their dtype."""
    opened, stored = open_checkpoint(source), open_folder(source.folder)
    refs: dict[str, TensorRef] = {}
    values: dict[str, str] = {}
    for name, ref in opened.refs.items():
        held = stored.get(name)
        if held is not None and held.shape == ref.shape and held.dtype.is_floating_point:
            refs[name] = Converted(ref, held.dtype)
        else:
            refs[name], values[name] = ref, method
    config = dict(opened.config)
    written = read_config(source)
    if (dtype := written.get("dtype", written.get("torch_dtype"))) is not None:
        config["dtype"] = dtype
    num_bytes = sum(ref.num_bytes for ref in stored.values())
    return Side(replace(opened, refs=refs, config=config), values, num_bytes)


def compare_models(first: Side, second: Side) -> ModelComparison:
    """Compare two models; only tensors whose digests differ are read.

    Where one side can only be read as values, equal values count as the same tensor.
    """
    before, after = first.checkpoint, second.checkpoint
    found = diff(before, after)
    differing = set(found.changed)
    changes = [
        change
        for name in after.all_refs
        if name in differing and (change := _change(name, first, second)) is not None
    ]
    return ModelComparison(
        changed=tuple(changes),
        added=found.added,
        removed=found.removed,
        config={
            key: (before.config.get(key), after.config.get(key))
            for key in found.config
            if _is_stated(key, first, second)
        },
        files=found.files,
        num_same=len(after.all_refs) - len(changes) - len(found.added),
        parameters=(before.num_parameters, after.num_parameters),
        num_bytes=(first.num_bytes, second.num_bytes),
    )


def _is_stated(key: str, first: Side, second: Side) -> bool:
    """Whether a config key is the model's own, rather than one that was filled in by reading it."""
    if key == "dtype":
        return "gguf" not in {*first.read_as_values.values(), *second.read_as_values.values()}
    return not key.startswith("_")


def _change(name: str, first: Side, second: Side) -> TensorChange | None:
    """What changed; None where one side is read as values and these are equal."""
    refs = first.checkpoint.all_refs[name], second.checkpoint.all_refs[name]
    before, after = (ref.load().float() for ref in refs)
    stored = first.read_as_values.get(name), second.read_as_values.get(name)
    if any(stored) and torch.equal(before, after):
        return None
    relative = greatest = None
    if before.shape == after.shape:
        off, size = (after - before).abs(), float(before.norm())
        greatest = _finite(float(off.max()) if off.numel() else 0.0)
        relative = _finite(float(off.norm()) / size) if size else None
    return TensorChange(
        name=name,
        relative=relative,
        greatest=greatest,
        zeros=(_zeros(before), _zeros(after)),
        shapes=(refs[0].shape, refs[1].shape),
        kinds=(stored[0] or refs[0].storage_kind, stored[1] or refs[1].storage_kind),
    )


def _finite(value: float) -> float | None:
    """The value; None for NaN and infinity, which JSON cannot represent."""
    return value if math.isfinite(value) else None


def _zeros(tensor: torch.Tensor) -> float:
    return 1 - int(torch.count_nonzero(tensor)) / max(tensor.numel(), 1)
