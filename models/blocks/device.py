"""In which dtype a model computes, and on which device (`checkpoints.placement` decides)."""

from __future__ import annotations

import torch

from ...checkpoints import Checkpoint, Quantized, TensorRef
from ...checkpoints.placement import current_device


def default_device() -> torch.device:
    """The device to compute on: the user's choice, else the accelerator, else the CPU."""
    return current_device()


def stored_dtype(checkpoint: Checkpoint, ref: TensorRef) -> torch.dtype:
    """The dtype to store a tensor made from a weight in: the config's, if it is narrower.

    Dequantised weights are float32 in a model that is stored in a narrower dtype.
    """
    stored = getattr(torch, str(checkpoint.config.get("dtype")), None)
    if isinstance(stored, torch.dtype) and stored.itemsize < ref.dtype.itemsize:
        return stored
    return ref.dtype


def compute_dtype(checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """The compute dtype: float32 on CPUs, whose bfloat16 is slow or inexact; else as stored."""
    if device.type == "cpu":
        return torch.float32
    stored = getattr(torch, str(checkpoint.config.get("dtype")), None)
    if isinstance(stored, torch.dtype):
        return stored
    floating = (ref.dtype for ref in checkpoint.refs.values() if ref.dtype.is_floating_point)
    return next(floating, torch.float32)


def judged_dtype(checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """The dtype of evaluation: float16 for models stored in it, else mostly `compute_dtype`.

    float16 represents values up to 65,504. Activations that are finite in float32 may be infinite
    when the model is loaded in float16. transformers computes FP4 weights in bfloat16 only, and
    packed experts, whose weights have three axes, in the dtype of their scales only.
    """
    for ref in checkpoint.refs.values():
        if isinstance(ref, Quantized) and ref.float4:
            return torch.bfloat16
        if isinstance(ref, Quantized) and len(ref.shape) == 3:
            return ref.dtype
    if checkpoint.config.get("dtype") == "float16":
        return torch.float16
    return compute_dtype(checkpoint, device)
