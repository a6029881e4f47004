"""Q4_K and Q6_K blocks of weights that were not quantised by a solver, such as the head.

Q4_K rounds to nearest on the solvers' Q4_K grid. Q6_K has 6-bit codes q and, for every 16 columns,
an 8-bit scale s; a super-block of 256 columns shares one float16 factor d: value = d s (q - 32).
The scales are searched as for any grid, rounded to multiples of d, and the codes are then chosen
for the rounded scales.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..solvers.grid import Grid
from ..solvers.round_to_nearest import quantize_round_to_nearest
from .ggml_blocks import pack

_SIX_BITS = Grid(6, 16, signed=True, scale_dtype=torch.float32)
_GROUPS = 16  # groups of a super-block
_MAX_STEPS = 127  # largest 8-bit scale
_SMALLEST_UNIT = 2.0**-24  # smallest positive float16


def q4_k(values: Tensor) -> Tensor:
    """Return the Q4_K blocks of ``values`` [rows, width], uint8 [rows, bytes per row]."""
    grid = Grid.named("q4_k")
    return pack(quantize_round_to_nearest(values.float(), grid=grid, scales="searched"))


def q6_k(values: Tensor) -> Tensor:
    """Return the Q6_K blocks of ``values`` [rows, width], uint8 [rows, bytes per row]."""
    values = values.float()
    fitted = quantize_round_to_nearest(values, grid=_SIX_BITS, scales="searched")
    groups = values.unflatten(1, (-1, _GROUPS, values.shape[1] // fitted.scales.shape[1]))
    # The solvers give a group of zeros scale 1, which would make d too large for other groups.
    scales = fitted.scales.unflatten(1, (-1, _GROUPS)) * (groups != 0).any(-1)
    unit = (scales.abs().amax(-1) / _MAX_STEPS).to(torch.float16).clamp_(min=_SMALLEST_UNIT)
    steps = (scales / unit.unsqueeze(-1).float()).round_().clamp_(-_MAX_STEPS - 1, _MAX_STEPS)
    stored = (unit.unsqueeze(-1).float() * steps).unsqueeze(-1)
    codes = (groups / torch.where(stored == 0, 1.0, stored)).round_()
    return _packed(codes.clamp_(-32, 31) + 32, steps, unit)


def _packed(codes: Tensor, steps: Tensor, unit: Tensor) -> Tensor:
    """Join codes [rows, blocks, 16, 16], steps [rows, blocks, 16] and units [rows, blocks].

    Each half of a super-block consists of four quarters of 32 columns. The low four bits of the
    first two quarters share bytes with those of the last two; the high two bits of all four share a
    byte.
    """
    quarters = codes.to(torch.uint8).view(*unit.shape, 2, 4, 32)
    first, last = quarters[..., :2, :], quarters[..., 2:, :]
    low = (first & 15) | ((last & 15) << 4)
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8).view(4, 1)
    high = ((quarters >> 4) << shifts).sum(-2).to(torch.uint8)
    parts = (
        low.flatten(-3),
        high.flatten(-2),
        steps.to(torch.int8).view(torch.uint8),
        unit.unsqueeze(-1).view(torch.uint8),
    )
    return torch.cat(parts, dim=-1).flatten(1)
