"""Argument checks shared by all solvers, and the dtype a solver computes in.

A solver does not know the name of its layer. The caller adds the name to the error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SettingError, SolverError

# Values of `fp32_precision` under which a float32 product is not computed in float32.
_REDUCED = frozenset({"tf32", "bf16"})


def require_finite(tensor: Tensor, name: str) -> None:
    """Raise SolverError, with the counts of NaN and infinity, unless all values are finite."""
    if is_finite(tensor):
        return
    num_nan = int(torch.isnan(tensor).sum())
    num_infinite = int(torch.isinf(tensor).sum())
    raise SolverError(
        f"{name} of shape {tuple(tensor.shape)} holds {num_nan} NaN and {num_infinite} infinite "
        f"values of {tensor.numel()}; check the model and the calibration inputs it came from"
    )


def is_finite(tensor: Tensor) -> bool:
    """Return whether ``tensor`` holds neither NaN nor infinity.

    Checks the minimum and maximum only, because both propagate NaN. That takes a tenth of the time
    of `torch.isfinite` on every value.
    """
    if tensor.numel() == 0:
        return True
    lowest, highest = torch.aminmax(tensor.detach())
    return bool(torch.isfinite(lowest) & torch.isfinite(highest))


def require_matrix(tensor: Tensor, name: str) -> None:
    """Raise SettingError unless ``tensor`` is a non-empty floating-point matrix."""
    if tensor.ndim != 2 or tensor.numel() == 0 or not tensor.is_floating_point():
        raise SettingError(
            f"{name} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}; "
            "give a non-empty floating-point matrix [out_features, in_features]"
        )


def require_weight(weight: Tensor) -> None:
    """Raise SettingError unless ``weight`` is a floating matrix, SolverError unless finite."""
    require_matrix(weight, "weight")
    require_finite(weight, "weight")


def require_width(weight: Tensor, square: Tensor, name: str) -> None:
    """Raise SettingError unless ``square`` is [in_features, in_features] for this ``weight``.

    ``name`` is what the message calls ``square``, such as "Gram matrix".
    """
    width = weight.shape[1]
    if tuple(square.shape) != (width, width):
        raise SettingError(
            f"weight {tuple(weight.shape)} and {name} {tuple(square.shape)} do not fit: "
            f"the {name} must be ({width}, {width}), collected from this layer's inputs"
        )


def require_mask(weight: Tensor, mask: Tensor) -> None:
    """Raise SettingError unless ``mask`` is boolean and has the shape of ``weight``."""
    if mask.shape != weight.shape or mask.dtype != torch.bool:
        raise SettingError(
            f"weight {tuple(weight.shape)} and mask {tuple(mask.shape)} of dtype {mask.dtype} "
            "do not fit: the mask must be boolean (True = kept) and of the weight's shape"
        )


def working_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype to compute in: float32 or float64.

    float64 for float64 input, and wherever the user has switched on reduced precision for float32
    products (TF32 or bfloat16) on this device; float32 otherwise. The switches belong to the user's
    process, so solvers read them and never change them; float64 products are not affected by them.
    """
    if tensor.dtype == torch.float64 or _float32_is_reduced(tensor.device):
        return torch.float64
    return torch.float32


def _float32_is_reduced(device: torch.device) -> bool:
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision in _REDUCED
