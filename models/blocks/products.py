"""In which dtype the passes that choose weights multiply matrices.

On processors that multiply bfloat16 faster than float32, the passes over calibration text may
compute the products of a block in bfloat16 (torch's autocast): factors and results are rounded, and
what lies between two products of a block may be too. Weights, hidden states between blocks, Gram
matrices and solvers stay float32. Text is sampled from the model in bfloat16 then. What judges a
model (`models.evaluation`) is not affected.
"""

from __future__ import annotations

import torch

from ...checkpoints.placement import current_placement

_CAPABILITIES = ("amx_bf16", "avx512_bf16", "bf16")  # the last one is Arm's


def product_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype of products by the placement in force; None for that of their factors.

    An accelerator computes in the dtype that the model is stored in.
    """
    precision = current_placement().precision
    if device.type != "cpu" or precision == "float32":
        return None
    return torch.bfloat16 if precision == "bfloat16" or has_fast_bfloat16() else None


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in _CAPABILITIES)


def computed_in(dtype: torch.dtype | None, device: torch.device) -> torch.autocast:
    """Autocast to a dtype on a device; None disables it."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def in_pass(device: torch.device) -> torch.autocast:
    """What a pass that chooses weights runs the model in."""
    return computed_in(product_dtype(device), device)
