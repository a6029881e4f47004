"""Q4_K of ggml: scales and minimums that are themselves small integers, fitted as they are stored.

A super-block of 256 columns holds two float16, d and dmin, and for each of its eight groups of 32
two integers of six bits, s and m. A weight is (d s) q - (dmin m) with q from 0 to 15, computed in
float32. There is no exact zero in it, unless m is 0.

Per group, minimises sum_j h_j (w_j - (a q_j - b))^2 over a > 0 and b >= 0: candidate ranges choose
the codes q, a and b are their least-squares answer, and that chooses codes anew, a few rounds.
Then, per super-block, d is the greatest a over 63 and dmin the greatest b over 63, and the
sixty-thirds are rounded to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SolverError
from .grid import Grid, Scales, SuperBlocks

_MOST_STEPS = 63
_SMALLEST_UNIT = 2.0**-24  # the least positive float16
_SHRINK_FACTORS = (1.04, 0.98, 0.92, 0.86, 0.8)
_ROUNDS = 3  # of codes for a pair and a pair for codes


def fit_super_blocks(groups: Tensor, *, grid: Grid, importance: Tensor, searched: bool) -> Scales:
    """Return scales and minimums [rows, groups] for ``groups`` [rows, groups, columns].

    ``importance`` [groups, columns] is h. Not ``searched`` means the range of the weights as it is;
    searched is never worse than that in any super-block. Raises SolverError if float16 overflows.
    """
    plain = _stored(*_range(groups, 1.0, grid), grid)
    if not searched:
        return plain
    found = _stored(*_search(groups, importance.to(groups.dtype), grid), grid)
    worse = _loss(groups, found, importance) > _loss(groups, plain, importance)
    return _chosen(worse, plain, found)


def _range(groups: Tensor, factor: float, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return a and b, [rows, groups], of the weights' range shrunk about its centre."""
    low, high = groups.amin(-1).clamp_(max=0.0), groups.amax(-1)
    high = torch.maximum(high, low)
    half, centre = (high - low) / 2 * factor, (high + low) / 2
    return 2 * half / grid.largest, (half - centre).clamp_(min=0.0)


def _search(groups: Tensor, importance: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    scale, minimum = _range(groups, 1.0, grid)
    most = torch.full_like(scale, -torch.inf)
    for factor in _SHRINK_FACTORS:
        fitted, fitted_minimum = _range(groups, factor, grid)
        for _ in range(_ROUNDS):
            fitted, fitted_minimum, gain = _least_squares(
                groups, importance, fitted, fitted_minimum, grid
            )
            better = gain > most
            most = torch.where(better, gain, most)
            scale = torch.where(better, fitted, scale)
            minimum = torch.where(better, fitted_minimum, minimum)
    return scale, minimum


def _least_squares(
    groups: Tensor, importance: Tensor, scale: Tensor, minimum: Tensor, grid: Grid
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best a and b for the codes a given pair chooses, and the loss they save."""
    safe = torch.where(scale > 0, scale, 1.0)
    codes = ((groups + minimum.unsqueeze(-1)) / safe.unsqueeze(-1)).round_()
    codes.clamp_(grid.smallest, grid.largest)
    total = importance.sum(-1)
    sum_codes, sum_values = (importance * codes).sum(-1), (importance * groups).sum(-1)
    sum_squares = (importance * codes * codes).sum(-1)
    sum_products = (importance * codes * groups).sum(-1)
    spread = total * sum_squares - sum_codes.square()
    fitted = (total * sum_products - sum_codes * sum_values) / spread
    offset = (sum_values - fitted * sum_codes) / total
    proportional = (offset > 0) | (spread <= 0) | (fitted <= 0)
    fitted = torch.where(proportional, sum_products / sum_squares, fitted)
    offset = torch.where(proportional, 0.0, offset)
    sound = torch.isfinite(fitted) & (fitted > 0)
    fitted, offset = torch.where(sound, fitted, scale), torch.where(sound, offset, -minimum)
    gain = 2 * (fitted * sum_products + offset * sum_values) - (
        fitted.square() * sum_squares + 2 * fitted * offset * sum_codes + offset.square() * total
    )
    return fitted, -offset, gain


def _stored(scale: Tensor, minimum: Tensor, grid: Grid) -> Scales:
    """Round a and b to what a super-block can hold."""
    scale_unit, scale_steps = _steps(scale, grid, fewest=1)
    minimum_unit, minimum_steps = _steps(minimum, grid, fewest=0)
    return _assembled(SuperBlocks(scale_unit, minimum_unit, scale_steps, minimum_steps), grid)


def _steps(values: Tensor, grid: Grid, *, fewest: int) -> tuple[Tensor, Tensor]:
    rows, num_groups = values.shape
    blocks = values.view(rows, -1, _groups_per_block(grid))
    unit = (blocks.amax(-1) / _MOST_STEPS).to(torch.float16).clamp_(min=_SMALLEST_UNIT)
    if not torch.isfinite(unit).all():
        raise SolverError(
            f"scale {float(values.max()):g} does not fit a super-block of float16; "
            "take a grid whose scales are bfloat16 or float32"
        )
    steps = (blocks / unit.unsqueeze(-1).to(values.dtype)).round_().clamp_(fewest, _MOST_STEPS)
    return unit, steps.to(torch.uint8).view(rows, num_groups)


def _groups_per_block(grid: Grid) -> int:
    return (grid.super_block or 0) // grid.group_width(grid.super_block or 0)


def _assembled(blocks: SuperBlocks, grid: Grid) -> Scales:
    """Multiply out in float32, as a reader does."""
    repeats = _groups_per_block(grid)
    scale = blocks.scale_unit.float().repeat_interleave(repeats, 1) * blocks.scale_steps
    minimum = blocks.minimum_unit.float().repeat_interleave(repeats, 1) * blocks.minimum_steps
    return Scales(scale, None, grid, minimum, blocks)


def _loss(groups: Tensor, scales: Scales, importance: Tensor) -> Tensor:
    """Return the weighted squared error of every super-block, [rows, super_blocks]."""
    scales = scales.unsqueeze(-1)
    error = (scales.decode(scales.encode(groups)) - groups).square_().mul_(importance)
    return error.view(groups.shape[0], -1, _groups_per_block(scales.grid) * groups.shape[2]).sum(-1)


def _chosen(first: Tensor, one: Scales, other: Scales) -> Scales:
    """Take super-blocks of ``one`` where ``first`` [rows, super_blocks], else of ``other``."""
    if one.super_blocks is None or other.super_blocks is None:
        return other
    a, b = one.super_blocks, other.super_blocks
    by_group = first.repeat_interleave(_groups_per_block(one.grid), 1)
    blocks = SuperBlocks(
        torch.where(first, a.scale_unit, b.scale_unit),
        torch.where(first, a.minimum_unit, b.minimum_unit),
        torch.where(by_group, a.scale_steps, b.scale_steps),
        torch.where(by_group, a.minimum_steps, b.minimum_steps),
    )
    return _assembled(blocks, one.grid)
