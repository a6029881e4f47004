"""What a solver lets in: finite numbers, and shapes that fit each other.

The solver does not know the name of the layer it works on; whoever calls it adds that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SettingError, SolverError

_REDUCED = frozenset({"tf32", "bf16"})


def require_finite(tensor: Tensor, name: str) -> None:
    """Raise SolverError with the counts of NaN and infinity if there are any in ``tensor``."""
    if all_finite(tensor):
        return
    num_nan = int(torch.isnan(tensor).sum())
    num_infinite = int(torch.isinf(tensor).sum())
    raise SolverError(
        f"{name} of shape {tuple(tensor.shape)} holds {num_nan} NaN and {num_infinite} infinite "
        f"values of {tensor.numel()}; mend what produced it before solving"
    )


def all_finite(tensor: Tensor) -> bool:
    """Return whether there is no NaN nor infinity in ``tensor``.

    Its extremes tell, since both would be NaN if one value were; asking every value takes ten times
    as long.
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
    """Raise unless ``weight`` is a finite floating-point matrix."""
    require_matrix(weight, "weight")
    require_finite(weight, "weight")


def require_width(weight: Tensor, square: Tensor, name: str) -> None:
    """Raise SettingError unless ``square`` is [in_features, in_features] of ``weight``."""
    width = weight.shape[1]
    if tuple(square.shape) != (width, width):
        raise SettingError(
            f"weight {tuple(weight.shape)} and {name} {tuple(square.shape)} do not fit: "
            f"the {name} must be ({width}, {width}), collected from this layer's inputs"
        )


def require_mask(weight: Tensor, mask: Tensor) -> None:
    """Raise SettingError unless ``mask`` is boolean and shaped as ``weight``."""
    if mask.shape != weight.shape or mask.dtype != torch.bool:
        raise SettingError(
            f"weight {tuple(weight.shape)} and mask {tuple(mask.shape)} of dtype {mask.dtype} "
            "do not fit: the mask must be boolean (True = kept) and of the weight's shape"
        )


def working_dtype(tensor: Tensor) -> torch.dtype:
    """Return float64 for float64 input, otherwise float32 if that is exact here, else float64."""
    if tensor.dtype == torch.float64 or _float32_is_reduced(tensor.device):
        return torch.float64
    return torch.float32


def _float32_is_reduced(device: torch.device) -> bool:
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision in _REDUCED
