"""Convert the tensors of a model to the dtypes stored in its folder, or to a single dtype."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from ...checkpoints import Checkpoint, Converted, InMemory, TensorRef
from ..blocks.parameter_names import parameter_finder
from .unused import quantised_parameters


def as_dtype(checkpoint: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    """Convert every floating-point tensor of the checkpoint to one dtype."""
    refs = {name: _converted(ref, dtype) for name, ref in checkpoint.refs.items()}
    return replace(checkpoint, refs=refs, config={**checkpoint.config, "dtype": _name(dtype)})


def in_stored_dtypes(found: Checkpoint, model: PreTrainedModel, opened: Checkpoint) -> Checkpoint:
    """Other tensors than dequantised weights in their dtype in the folder.

    Dequantised weights keep the dtype that holds their values: float32, or bfloat16 for MXFP4.

    Args:
        found: the loaded model, whose tensors may all have one dtype wide enough for each.
        model: of the same class, to match tensors of the folder to parameters.
        opened: the stored tensors and the config of the folder.
    """
    find, coded = parameter_finder(model), quantised_parameters(model, opened.refs)
    stored: dict[str, torch.dtype] = {}
    for name, ref in opened.refs.items():
        parameter = find(name)[0]
        stored[parameter] = _wider(ref.dtype, stored.get(parameter, ref.dtype))
    refs = {
        name: ref if name in coded else _converted(ref, stored.get(name, ref.dtype))
        for name, ref in found.refs.items()
    }
    stated = getattr(torch, str(opened.config.get("dtype")), None)
    dtype = stated if isinstance(stated, torch.dtype) else _most_common(refs, coded)
    return replace(found, refs=refs, config={**found.config, "dtype": _name(dtype)})


def widest_dtype(refs: Mapping[str, TensorRef]) -> torch.dtype:
    """A floating-point dtype of at least two bytes that represents every value of the tensors."""
    found: torch.dtype | None = None
    for ref in refs.values():
        if ref.dtype.is_floating_point and ref.dtype.itemsize > 1:
            found = ref.dtype if found is None else _wider(found, ref.dtype)
    return found or torch.float32


def _wider(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    return one if one == other else torch.promote_types(one, other)


def _most_common(refs: Mapping[str, TensorRef], coded: Collection[str]) -> torch.dtype:
    """The most common dtype of the values outside the quantised weights."""
    counts: dict[torch.dtype, int] = {torch.float32: 0}
    for name, ref in refs.items():
        if name not in coded and ref.dtype.is_floating_point:
            counts[ref.dtype] = counts.get(ref.dtype, 0) + ref.num_values
    return max(counts, key=lambda dtype: counts[dtype])


def _converted(ref: TensorRef, dtype: torch.dtype) -> TensorRef:
    """Convert a floating-point tensor when it is loaded, or now if it is in memory."""
    if not (ref.dtype.is_floating_point and dtype.is_floating_point) or ref.dtype == dtype:
        return ref
    return InMemory(ref.load().to(dtype)) if isinstance(ref, InMemory) else Converted(ref, dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
