"""Which dtype a solver computes in: float32, or better where float32 would not be float32.

PyTorch has process-wide switches that let float32 products run as TF32 or bfloat16. They belong
to the user, so no solver flips them; where one is on for the device at hand, the work is done in
float64, which it does not touch.
"""

from __future__ import annotations

import torch
from torch import Tensor

_REDUCED = frozenset({"tf32", "bf16"})


def working_dtype(tensor: Tensor) -> torch.dtype:
    """Return float64 for float64 input, otherwise float32 if that is exact here, else float64."""
    if tensor.dtype == torch.float64 or _float32_is_reduced(tensor.device):
        return torch.float64
    return torch.float32


def _float32_is_reduced(device: torch.device) -> bool:
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision in _REDUCED
