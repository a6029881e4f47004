"""Scales found by search: the range that clips a few weights may serve the rest better.

Per row and group, minimises sum_j h_j (w_j - q_j)^2 over the scale, and over the zero point of an
asymmetric grid. h_j is what an error in column j costs: for GPTQ 1 / U_jj^2, since its loss is the
sum of e_j^2 / U_jj^2 over the rounding errors e_j it makes; for rounding to nearest H_jj.

Each candidate scale only chooses codes. The scale that goes with them is the least-squares one,
<w, c> / <c, c> under h, whose loss is sum h w^2 - <w, c>^2 / <c, c>: so a coarse comb of candidates
does what a fine one would.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .grid import Grid, Scales, fit_scales, nearest_zero_point, stored_scale
from .super_blocks import fit_super_blocks

ScaleRule = Literal["searched", "minmax"]

_NUM_CANDIDATES = 7
_WIDEST = 1.05
# Values worked on at a time: bounds the copies, and keeps them in a core's own cache.
_VALUES_PER_CHUNK = 1 << 18


def fit_groups(
    groups: Tensor,
    *,
    grid: Grid,
    scale_dtype: torch.dtype,
    rule: ScaleRule,
    importance: Tensor | None = None,
) -> Scales:
    """Return scales [rows, groups] for ``groups`` [rows, groups, columns] of weights.

    ``importance`` [groups, columns], positive, is h; None for equal weights, and it serves
    "searched" only. Raises SolverError if a scale overflows.
    """
    num_values = max(groups[0].numel(), 1)
    fitted = [
        _fit(chunk, grid=grid, scale_dtype=scale_dtype, rule=rule, importance=importance)
        for chunk in groups.split(max(_VALUES_PER_CHUNK // num_values, 1))
    ]
    return Scales.joined(fitted, dim=0)


def _fit(
    groups: Tensor,
    *,
    grid: Grid,
    scale_dtype: torch.dtype,
    rule: ScaleRule,
    importance: Tensor | None,
) -> Scales:
    if importance is None:
        importance = groups.new_ones(groups.shape[1:])
    if grid.super_block:
        return fit_super_blocks(groups, grid=grid, importance=importance, searched=rule != "minmax")
    plain = fit_scales(groups, grid=grid, scale_dtype=scale_dtype)
    if rule == "searched":
        plain = _searched(groups, plain, importance.to(groups.dtype), scale_dtype)
    return plain.squeeze(-1)


def shrink_factors(bits: int) -> list[float]:
    """Return what to multiply the min-max range by: the fewer the codes, the more may be cut."""
    narrowest = 1 - 1.6 / bits
    step = (_WIDEST - narrowest) / (_NUM_CANDIDATES - 1)
    return [_WIDEST - index * step for index in range(_NUM_CANDIDATES)]


def _searched(
    groups: Tensor, plain: Scales, importance: Tensor, scale_dtype: torch.dtype
) -> Scales:
    """Return the better, group by group, of the best candidate and ``plain``, which is min-max."""
    search = _Search(groups, importance, plain)
    for factor in shrink_factors(plain.grid.bits):
        search.try_range(factor)
    if not plain.grid.symmetric:
        for shift in (-1, 1):
            search.try_shift(shift)
    found = Scales(
        stored_scale(search.scale, grid=plain.grid, scale_dtype=scale_dtype),
        None if search.zero_point is None else search.zero_point.to(torch.int8),
        plain.grid,
    )
    better = _loss(groups, found, importance) < _loss(groups, plain, importance)
    return Scales(
        torch.where(better, found.scale, plain.scale),
        (
            None
            if found.zero_point is None or plain.zero_point is None
            else torch.where(better, found.zero_point, plain.zero_point)
        ),
        plain.grid,
    )


def _loss(groups: Tensor, scales: Scales, importance: Tensor) -> Tensor:
    """Return the weighted squared error of every group, [rows, groups, 1]."""
    error = scales.decode(scales.encode(groups)).sub_(groups)
    return error.square_().mul_(importance).sum(-1, keepdim=True)


class _Search:
    """The best scale so far of every group, all [rows, groups, 1]."""

    def __init__(self, groups: Tensor, importance: Tensor, plain: Scales) -> None:
        self.scale = plain.scale.to(groups.dtype)
        self.zero_point = None if plain.zero_point is None else plain.zero_point.to(groups.dtype)
        self._plain_scale = self.scale
        self._grid = plain.grid
        self._groups = groups
        self._importance = importance
        self._weighted = groups * importance
        self._gain = torch.zeros_like(self.scale)
        self._codes, self._products = torch.empty_like(groups), torch.empty_like(groups)
        if not plain.grid.symmetric:
            self._centre = (
                groups.amin(-1, True).clamp_(max=0) + groups.amax(-1, True).clamp_(0)
            ) / 2

    def try_range(self, factor: float) -> None:
        """Try the min-max range shrunk to ``factor`` about its own centre."""
        scale = self._plain_scale * factor
        if self._grid.symmetric:
            self._try(scale, None)
            return
        half_range = scale * ((1 << self._grid.bits) - 1) / 2
        zero_point = nearest_zero_point(self._centre - half_range, scale, self._grid)
        self._try(scale, zero_point.to(scale.dtype))

    def try_shift(self, shift: int) -> None:
        """Try the best so far with its zero point moved."""
        if self.zero_point is not None:
            shifted = (self.zero_point + shift).clamp_(self._grid.smallest, self._grid.largest)
            self._try(self.scale, shifted)

    def _try(self, scale: Tensor, zero_point: Tensor | None) -> None:
        codes = torch.div(self._groups, scale, out=self._codes).round_()
        if zero_point is None:
            codes.clamp_(self._grid.smallest, self._grid.largest)
        else:
            codes.clamp_(self._grid.smallest - zero_point, self._grid.largest - zero_point)
        along = torch.mul(self._weighted, codes, out=self._products).sum(-1, keepdim=True)
        size = codes.square_().mul_(self._importance).sum(-1, keepdim=True)
        scale = torch.where(size > 0, along / size, self._plain_scale)
        gain = along * scale
        better = gain > self._gain
        self._gain = torch.where(better, gain, self._gain)
        self.scale = torch.where(better, scale, self.scale)
        if zero_point is not None and self.zero_point is not None:
            self.zero_point = torch.where(better, zero_point, self.zero_point)
