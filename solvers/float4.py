"""Grids of E2M1 numbers (FP4): MXFP4 and NVFP4, and the search of their scales.

Codes are twice an E2M1 number, so that they are whole: 0, 1, 2, 3, 4, 6, 8, 12 and the same below
zero. MXFP4 has groups of 32 with a power of two each, NVFP4 groups of 16 with a float8 number each,
times a unit of the whole weight (`float_scales`).

A scale is searched among the stored ones near min-max for the least sum_j h_j (w_j - q_j)^2: the
rounding of a scale is too coarse to keep what a least-squares scale would gain. NVFP4's candidates
reach above min-max, since a largest value stored as 4 instead of 6 may suit the others better
(2512.02010).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .float_scales import e4m3_unit
from .grid import Grid, Scales, stored_scale

Float4Name = Literal["mxfp4", "nvfp4"]

_CODES = (-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12)
_FACTORS = {"e8m0": (2.0, 0.5), "e4m3": (1.5, 1.4, 1.3, 1.2, 1.1, 0.93, 0.86, 0.8, 0.7)}

MXFP4 = Grid(4, 32, levels=_CODES, scale_format="e8m0")
"""The grid of MXFP4; NVFP4 has one for every unit, see `nvfp4_grid`."""


def nvfp4_grid(largest: float) -> Grid:
    """The grid of NVFP4 for weights of magnitudes up to ``largest``."""
    unit = e4m3_unit(largest / _CODES[-1])
    return Grid(4, 16, levels=_CODES, scale_format="e4m3", scale_unit=unit)


def float4_name(grid: Grid) -> Float4Name | None:
    """Which of the two a grid is; None for any other."""
    return {"e8m0": "mxfp4", "e4m3": "nvfp4", None: None}[grid.scale_format]


def search_scales(
    groups: Tensor, plain: Scales, importance: Tensor, scale_dtype: torch.dtype
) -> Scales:
    """Return the scale of least error near ``plain``, for every group.

    Args:
        groups: the weights, [rows, groups, group_size].
        plain: min-max scales [rows, groups, 1].
        importance: h, [groups, group_size].
    """
    grid = plain.grid
    best, least = plain.scale, _loss(groups, plain, importance)
    wanted = plain.scale.to(groups.dtype)
    for factor in _FACTORS[grid.scale_format or "e8m0"]:
        scale = stored_scale(wanted * factor, grid=grid, scale_dtype=scale_dtype)
        loss = _loss(groups, Scales(scale, None, grid), importance)
        better = loss < least
        best, least = torch.where(better, scale, best), torch.where(better, loss, least)
    return Scales(best, None, grid)


def _loss(groups: Tensor, scales: Scales, importance: Tensor) -> Tensor:
    """Return sum_j h_j (w_j - q_j)^2 of every group, [rows, groups, 1]."""
    error = scales.decode(scales.encode(groups)).sub_(groups)
    return error.square_().mul_(importance).sum(-1, keepdim=True)
