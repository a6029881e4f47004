"""Fitting ggml's Q6_K and Q3_K grids, whose signed scales are themselves stored as small integers.

A super-block of 256 columns stores one float16 value d, and for each of its 16 groups of 16 columns
a signed integer s, of 8 bits (Q6_K) or 6 bits (Q3_K). A weight is (d s) q with signed codes q,
computed in float32. Zero is represented exactly.

Given the scale a of every group, fitted as if it were stored as it is (`grid_search`): d is the
a of largest magnitude over the smallest s, so that this group's scale is exact up to the rounding
of d. Of the whole numbers next to a / d, the s of least error sum_j h_j (w_j - d s q_j)^2 is kept.

Legend: h is ``importance``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .grid import Grid, Scales, SuperBlocks
from .super_blocks import assemble, groups_per_block, stored_unit


def round_scales(groups: Tensor, scale: Tensor, *, grid: Grid, importance: Tensor) -> Scales:
    """Return scales that the super-blocks can store.

    Args:
        groups: the weights, [rows, groups, group_size].
        scale: a, [rows, groups], not 0.
        grid: the Q6_K or Q3_K grid.
        importance: h, [groups, group_size].

    Raises:
        SolverError: a float16 overflows.
    """
    rows, num_groups = scale.shape
    lowest = -(1 << ((grid.scale_bits or 1) - 1))  # -128 or -32
    # A group of zeros has any scale, which must not decide that of the others.
    wanted = (scale * (groups != 0).any(-1)).view(rows, -1, groups_per_block(grid))
    place = wanted.abs().argmax(-1, keepdim=True)
    unit = stored_unit(wanted.gather(-1, place).squeeze(-1) / lowest)  # [rows, super_blocks]
    nearest = (wanted / unit.unsqueeze(-1).to(wanted.dtype)).round_().view(rows, num_groups)
    best: tuple[Tensor, Tensor] | None = None
    for shift in (0, -1, 1):
        steps = (nearest + shift).clamp_(lowest, -lowest - 1)
        steps = torch.where(steps == 0, 1.0, steps).to(torch.int8)
        loss = _loss(groups, assemble(SuperBlocks(unit, steps), grid), importance)
        if best is None:
            best = steps, loss
        else:
            better = loss < best[1]
            best = torch.where(better, steps, best[0]), torch.where(better, loss, best[1])
    assert best is not None
    return assemble(SuperBlocks(unit, best[0]), grid)


def _loss(groups: Tensor, scales: Scales, importance: Tensor) -> Tensor:
    """Return the weighted squared error of every group, [rows, groups]."""
    scales = scales.unsqueeze(-1)
    error = scales.decode(scales.encode(groups)) - groups
    return error.square_().mul_(importance).sum(-1)
