"""Where a model computes, and in which dtype."""

from __future__ import annotations

import torch

from ...checkpoints import Checkpoint, TensorRef


def default_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def stored_dtype(checkpoint: Checkpoint, ref: TensorRef) -> torch.dtype:
    """What something made from a weight is stored in: the config's dtype where it is narrower.

    Weights that were multiplied out from codes are float32 in a model that is stored in less.
    """
    said = getattr(torch, str(checkpoint.config.get("dtype")), None)
    narrower = isinstance(said, torch.dtype) and said.itemsize < ref.dtype.itemsize
    return said if narrower else ref.dtype


def compute_dtype(checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """What to compute in: float32 on a CPU, whose bfloat16 is slow or inexact; else as stored."""
    if device.type == "cpu":
        return torch.float32
    stored = getattr(torch, str(checkpoint.config.get("dtype")), None)
    if isinstance(stored, torch.dtype):
        return stored
    floating = (ref.dtype for ref in checkpoint.refs.values() if ref.dtype.is_floating_point)
    return next(floating, torch.float32)
