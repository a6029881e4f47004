"""Tensors of a model in the dtypes its folder stores them in, or all in one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from ...checkpoints import Checkpoint, Converted, InMemory, TensorRef
from ..blocks.parameter_names import parameter_finder
from .unused import quantised_parameters


def as_dtype(checkpoint: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    """The checkpoint with every floating-point tensor of the model stored in one dtype."""
    refs = {name: _converted(ref, dtype) for name, ref in checkpoint.refs.items()}
    return replace(checkpoint, refs=refs, config={**checkpoint.config, "dtype": _name(dtype)})


def in_stored_dtypes(found: Checkpoint, model: PreTrainedModel, opened: Checkpoint) -> Checkpoint:
    """Weights made from codes in float32, everything else in the dtype the folder holds it in.

    Args:
        found: the model, in which all may have one dtype, wide enough for each.
        model: of the same class, to tell which tensor of the folder is which.
        opened: the folder's tensors as they are stored, and its config.
    """
    find, coded = parameter_finder(model), quantised_parameters(model, opened.refs)
    stored: dict[str, torch.dtype] = {}
    for name, ref in opened.refs.items():
        parameter = find(name)[0]
        stored[parameter] = _wider(ref.dtype, stored.get(parameter, ref.dtype))
    refs = {
        name: _converted(ref, torch.float32 if name in coded else stored.get(name, ref.dtype))
        for name, ref in found.refs.items()
    }
    said = getattr(torch, str(opened.config.get("dtype")), None)
    dtype = said if isinstance(said, torch.dtype) else _most_common(refs, coded)
    return replace(found, refs=refs, config={**found.config, "dtype": _name(dtype)})


def widest_dtype(refs: Mapping[str, TensorRef]) -> torch.dtype:
    """A floating-point dtype of at least two bytes that holds every value of some tensors."""
    found: torch.dtype | None = None
    for ref in refs.values():
        if ref.dtype.is_floating_point and ref.dtype.itemsize > 1:
            found = ref.dtype if found is None else _wider(found, ref.dtype)
    return found or torch.float32


def _wider(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    return one if one == other else torch.promote_types(one, other)


def _most_common(refs: Mapping[str, TensorRef], coded: Collection[str]) -> torch.dtype:
    """The dtype that most values outside of the quantised weights have."""
    counts: dict[torch.dtype, int] = {torch.float32: 0}
    for name, ref in refs.items():
        if name not in coded and ref.dtype.is_floating_point:
            counts[ref.dtype] = counts.get(ref.dtype, 0) + ref.num_values
    return max(counts, key=lambda dtype: counts[dtype])


def _converted(ref: TensorRef, dtype: torch.dtype) -> TensorRef:
    """A floating-point tensor in another dtype, converted when it loads unless it is in memory."""
    if not (ref.dtype.is_floating_point and dtype.is_floating_point) or ref.dtype == dtype:
        return ref
    return InMemory(ref.load().to(dtype)) if isinstance(ref, InMemory) else Converted(ref, dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
