"""Fitting ggml's Q4_K grid, whose scales and minimums are themselves stored as small integers.

A super-block of 256 columns stores two float16 values, d and dmin, and for each of its eight groups
of 32 columns two 6-bit integers, s and m. A weight is (d s) q - (dmin m) with codes q from 0 to 15,
computed in float32. Zero is represented exactly only if m is 0. Q5_K differs in the bits of q; Q2_K
has 16 groups of 16 columns and 4-bit integers s and m.

For every group, minimises sum_j h_j (w_j - (a q_j - b))^2 over a > 0 and b >= 0 in a few
alternating rounds: a candidate range determines the codes q; a and b are their least-squares
values; these determine new codes. Then, for every super-block, d is the largest a over 63 and dmin
the largest b over 63 (Q2_K: 15), and a and b are rounded to multiples of them.

Legend: a is ``scale``, b is ``minimum``, h is ``importance``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SolverError
from .grid import Grid, Scales, SuperBlocks

SMALLEST_UNIT = 2.0**-24  # smallest positive float16
_SHRINK_FACTORS = (1.04, 0.98, 0.92, 0.86, 0.8)  # candidate ranges, relative to min-max
_SHRINK_MORE = (0.72, 0.64, 0.56)  # for 2 bits
_ROUNDS = 3  # alternations between codes and (a, b)


def fit_super_blocks(groups: Tensor, *, grid: Grid, importance: Tensor, searched: bool) -> Scales:
    """Return scales and minimums [rows, groups] for weights ``groups`` [rows, groups, group_size].

    Args:
        groups: the weights.
        grid: the Q4_K grid, or that of Q5_K or Q2_K.
        importance: h, [groups, group_size], positive.
        searched: False fits the minimum and maximum of each group. True searches; the result is
            never worse than min-max in any super-block.

    Raises:
        SolverError: a float16 overflows.
    """
    plain = _stored(*_range(groups, 1.0, grid), grid)
    if not searched:
        return plain
    found = _stored(*_search(groups, importance.to(groups.dtype), grid), grid)
    return better_blocks(groups, found, plain, importance)


def _range(groups: Tensor, factor: float, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return a and b, [rows, groups], of the min-max range scaled by ``factor``, same centre."""
    low, high = groups.amin(-1).clamp_(max=0.0), groups.amax(-1)
    high = torch.maximum(high, low)
    half, centre = (high - low) / 2 * factor, (high + low) / 2
    return 2 * half / grid.largest, (half - centre).clamp_(min=0.0)


def _search(groups: Tensor, importance: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return the best a and b, [rows, groups], over the candidate ranges, before rounding."""
    scale, minimum = _range(groups, 1.0, grid)
    best = torch.full_like(scale, -torch.inf)  # loss saved by the best pair so far
    for factor in (*_SHRINK_FACTORS, *(_SHRINK_MORE if grid.bits < 3 else ())):
        fitted, fitted_minimum = _range(groups, factor, grid)
        for _ in range(_ROUNDS):
            # codes from (a, b), then the least-squares (a, b) of these codes
            fitted, fitted_minimum, gain = _least_squares(
                groups, importance, fitted, fitted_minimum, grid
            )
            better = gain > best
            best = torch.where(better, gain, best)
            scale = torch.where(better, fitted, scale)
            minimum = torch.where(better, fitted_minimum, minimum)
    return scale, minimum


def _least_squares(
    groups: Tensor, importance: Tensor, scale: Tensor, minimum: Tensor, grid: Grid
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the least-squares a and b for the codes of the given pair, and the loss they save.

    All are [rows, groups]. Weighted linear regression of w on q: slope a, intercept -b.
    """
    # Codes of the given pair: q = round((w + b) / a), [rows, groups, 32]
    safe = torch.where(scale > 0, scale, 1.0)
    codes = ((groups + minimum.unsqueeze(-1)) / safe.unsqueeze(-1)).round_()
    codes.clamp_(grid.smallest, grid.largest)
    # Sums of h, hq, hw, hqq and hqw, [rows, groups]
    total = importance.sum(-1)
    sum_codes, sum_values = (importance * codes).sum(-1), (importance * groups).sum(-1)
    sum_squares = (importance * codes * codes).sum(-1)
    sum_products = (importance * codes * groups).sum(-1)
    # Normal equations of the regression.
    determinant = total * sum_squares - sum_codes.square()
    fitted = (total * sum_products - sum_codes * sum_values) / determinant
    offset = (sum_values - fitted * sum_codes) / total  # -b
    # Without a valid intercept (b < 0, or a degenerate system) fit a line through the origin.
    proportional = (offset > 0) | (determinant <= 0) | (fitted <= 0)
    fitted = torch.where(proportional, sum_products / sum_squares, fitted)
    offset = torch.where(proportional, 0.0, offset)
    # Keep the given pair where that is not valid either.
    valid = torch.isfinite(fitted) & (fitted > 0)
    fitted, offset = torch.where(valid, fitted, scale), torch.where(valid, offset, -minimum)
    # The sum of h w^2 minus the loss.
    gain = 2 * (fitted * sum_products + offset * sum_values) - (
        fitted.square() * sum_squares + 2 * fitted * offset * sum_codes + offset.square() * total
    )
    return fitted, -offset, gain


def _stored(scale: Tensor, minimum: Tensor, grid: Grid) -> Scales:
    """Round a and b to multiples of the super-block's two float16 units."""
    scale_unit, scale_steps = _steps(scale, grid, fewest=1)
    minimum_unit, minimum_steps = _steps(minimum, grid, fewest=0)
    return assemble(SuperBlocks(scale_unit, scale_steps, minimum_unit, minimum_steps), grid)


def _steps(values: Tensor, grid: Grid, *, fewest: int) -> tuple[Tensor, Tensor]:
    """Return each super-block's unit, and how many units (``fewest`` on) each value is."""
    rows, num_groups = values.shape
    most = (1 << (grid.scale_bits or 0)) - 1
    blocks = values.view(rows, -1, groups_per_block(grid))
    unit = stored_unit(blocks.amax(-1) / most)
    steps = (blocks / unit.unsqueeze(-1).to(values.dtype)).round_().clamp_(fewest, most)
    return unit, steps.to(torch.uint8).view(rows, num_groups)


def stored_unit(unit: Tensor) -> Tensor:
    """Return the unit of each super-block as float16, never 0; its sign is kept.

    Raises:
        SolverError: it does not fit.
    """
    stored = unit.to(torch.float16)
    if not torch.isfinite(stored).all():
        raise SolverError(
            f"scale {float(unit.abs().max()):g} does not fit a super-block of float16; "
            "choose a grid whose scales are bfloat16 or float32"
        )
    return torch.where(stored == 0, torch.full_like(stored, SMALLEST_UNIT), stored)


def groups_per_block(grid: Grid) -> int:
    return (grid.super_block or 0) // grid.group_width(grid.super_block or 0)


def assemble(blocks: SuperBlocks, grid: Grid) -> Scales:
    """Compute scales and minimums in float32, as a reader of the file does."""
    repeats = groups_per_block(grid)
    scale = blocks.scale_unit.float().repeat_interleave(repeats, 1) * blocks.scale_steps
    if blocks.minimum_unit is None or blocks.minimum_steps is None:
        return Scales(scale, None, grid, None, blocks)
    minimum = blocks.minimum_unit.float().repeat_interleave(repeats, 1) * blocks.minimum_steps
    return Scales(scale, None, grid, minimum, blocks)


def better_blocks(groups: Tensor, found: Scales, plain: Scales, importance: Tensor) -> Scales:
    """Return ``found``, but ``plain`` in the super-blocks where that has less error."""
    worse = _loss(groups, found, importance) > _loss(groups, plain, importance)
    return _choose(worse, plain, found)


def _loss(groups: Tensor, scales: Scales, importance: Tensor) -> Tensor:
    """Return the weighted squared error of every super-block, [rows, super_blocks]."""
    scales = scales.unsqueeze(-1)
    error = (scales.decode(scales.encode(groups)) - groups).square_().mul_(importance)
    return error.view(groups.shape[0], -1, groups_per_block(scales.grid) * groups.shape[2]).sum(-1)


def _choose(first: Tensor, one: Scales, other: Scales) -> Scales:
    """Take super-blocks of ``one`` where ``first`` [rows, super_blocks], else of ``other``."""
    if one.super_blocks is None or other.super_blocks is None:
        return other
    a, b = one.super_blocks, other.super_blocks
    by_group = first.repeat_interleave(groups_per_block(one.grid), 1)
    blocks = SuperBlocks(
        torch.where(first, a.scale_unit, b.scale_unit),
        torch.where(by_group, a.scale_steps, b.scale_steps),
        _where(first, a.minimum_unit, b.minimum_unit),
        _where(by_group, a.minimum_steps, b.minimum_steps),
    )
    return assemble(blocks, one.grid)


def _where(first: Tensor, one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return None if one is None or other is None else torch.where(first, one, other)
