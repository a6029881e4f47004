"""Q4_K and Q6_K of weights that nothing was solved for, such as the head.

Q4_K is what rounding to nearest on the solvers' grid gives. Q6_K has codes of six bits, and for
each 16 columns a scale of eight bits, a multiple of one float16 for all 256: value = d s (q - 32).
Its scales are searched for as for any grid, rounded to the multiples, and then the codes are chosen
anew for the scales as they are stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..solvers.grid import Grid
from ..solvers.round_to_nearest import quantize_round_to_nearest
from .ggml_blocks import pack

_SIX_BITS = Grid(6, 16, signed=True, scale_dtype=torch.float32)
_GROUPS = 16  # of a super-block
_MOST_STEPS = 127
_SMALLEST_UNIT = 2.0**-24  # the least positive float16


def q4_k(values: Tensor) -> Tensor:
    """Blocks of ``values`` [rows, width], uint8 [rows, bytes of a row]."""
    grid = Grid.named("q4_k")
    return pack(quantize_round_to_nearest(values.float(), grid=grid, scales="searched"))


def q6_k(values: Tensor) -> Tensor:
    """Blocks of ``values`` [rows, width], uint8 [rows, bytes of a row]."""
    values = values.float()
    fitted = quantize_round_to_nearest(values, grid=_SIX_BITS, scales="searched")
    groups = values.unflatten(1, (-1, _GROUPS, values.shape[1] // fitted.scales.shape[1]))
    # The solvers give a group of zeros the scale 1, which would make the unit coarse for the rest.
    scales = fitted.scales.unflatten(1, (-1, _GROUPS)) * (groups != 0).any(-1)
    unit = (scales.abs().amax(-1) / _MOST_STEPS).to(torch.float16).clamp_(min=_SMALLEST_UNIT)
    steps = (scales / unit.unsqueeze(-1).float()).round_().clamp_(-_MOST_STEPS - 1, _MOST_STEPS)
    stored = (unit.unsqueeze(-1).float() * steps).unsqueeze(-1)
    codes = (groups / torch.where(stored == 0, 1.0, stored)).round_()
    return _packed(codes.clamp_(-32, 31) + 32, steps, unit)


def _packed(codes: Tensor, steps: Tensor, unit: Tensor) -> Tensor:
    """Join codes [rows, blocks, 16, 16], steps [rows, blocks, 16] and units [rows, blocks].

    Each half of a super-block is four quarters of 32 columns: the low four bits of the first two
    lie beside those of the last two, and the high two bits of all four share a byte.
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
