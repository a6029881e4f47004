"""Scales found by search: clipping a few weights of a group can reduce the error of the others.

For every row and group, minimises sum_j h_j (w_j - q_j)^2 over the scale, and over the zero point
of an asymmetric grid. h_j is the cost of an error in column j. For GPTQ it is 1 / U_jj^2, because
GPTQ's loss is the sum of e_j^2 / U_jj^2 over its rounding errors e_j; for round to nearest it is
H_jj.

A candidate scale is used only to choose codes c. The scale that belongs to these codes is the
least-squares one, <w, c> / <c, c> with inner products weighted by h, and its loss is sum_j h_j
w_j^2 - <w, c>^2 / <c, c>. So a few widely spaced candidates are as good as many.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from .float4 import search_scales
from .grid import Grid, Scales, fit_scales, nearest_zero_point, stored_scale
from .signed_blocks import round_scales
from .super_blocks import better_blocks, fit_super_blocks

ScaleRule = Literal["searched", "minmax"]

_NUM_CANDIDATES = 7
_WIDEST = 1.05  # widest candidate, as a factor of the min-max range
# Values processed at a time, so that temporaries stay small and in the CPU cache.
_VALUES_PER_CHUNK = 1 << 18


def fit_groups(
    groups: Tensor,
    *,
    grid: Grid,
    scale_dtype: torch.dtype,
    rule: ScaleRule,
    importance: Tensor | None = None,
) -> Scales:
    """Return scales [rows, groups] for weights ``groups`` [rows, groups, group_size].

    Args:
        groups: the weights.
        grid: the integer grid.
        scale_dtype: dtype that scales are stored in, unless the grid has its own.
        rule: "minmax" or "searched".
        importance: h, [groups, group_size], positive; None for equal weights. Used by "searched"
            only.

    Raises:
        SolverError: a scale overflows its dtype.
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
    if grid.has_minimums:
        return fit_super_blocks(groups, grid=grid, importance=importance, searched=rule != "minmax")
    if grid.super_block:
        return _in_super_blocks(groups, grid, importance, rule)
    plain = fit_scales(groups, grid=grid, scale_dtype=scale_dtype)
    if rule == "searched":
        plain = _searched(groups, plain, importance.to(groups.dtype), scale_dtype)
    return plain.squeeze(-1)


def _in_super_blocks(groups: Tensor, grid: Grid, importance: Tensor, rule: ScaleRule) -> Scales:
    """Return free scales rounded to small integers; searched ones only where they are better."""
    free = replace(grid, super_block=None, scale_bits=None, scale_dtype=torch.float32)
    plain = fit_scales(groups, grid=free, scale_dtype=torch.float32)
    stored = round_scales(groups, plain.scale.squeeze(-1), grid=grid, importance=importance)
    if rule == "minmax":
        return stored
    found = _searched(groups, plain, importance.to(groups.dtype), torch.float32).scale.squeeze(-1)
    return better_blocks(
        groups, round_scales(groups, found, grid=grid, importance=importance), stored, importance
    )


def shrink_factors(bits: int) -> list[float]:
    """Return the candidates' ranges as factors of the min-max range; narrower for fewer bits."""
    narrowest = 1 - 1.6 / bits
    step = (_WIDEST - narrowest) / (_NUM_CANDIDATES - 1)
    return [_WIDEST - index * step for index in range(_NUM_CANDIDATES)]


def _searched(
    groups: Tensor, plain: Scales, importance: Tensor, scale_dtype: torch.dtype
) -> Scales:
    """Return, for every group, the better of the best candidate and the min-max scale ``plain``."""
    if plain.grid.scale_format is not None:
        return search_scales(groups, plain, importance, scale_dtype)
    search = _Search(groups, importance, plain)
    for factor in shrink_factors(plain.grid.bits):
        search.try_range(factor)
        if plain.grid.levels:  # which are not symmetric either
            search.try_range(-factor)
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
    """Return sum_j h_j (w_j - q_j)^2 of every group, [rows, groups, 1]."""
    error = scales.decode(scales.encode(groups)).sub_(groups)
    return error.square_().mul_(importance).sum(-1, keepdim=True)


class _Search:
    """The best scale so far of every group. All state is [rows, groups, 1]."""

    def __init__(self, groups: Tensor, importance: Tensor, plain: Scales) -> None:
        self.scale = plain.scale.to(groups.dtype)
        self.zero_point = None if plain.zero_point is None else plain.zero_point.to(groups.dtype)
        self._plain_scale = self.scale
        self._grid = plain.grid
        self._groups = groups
        self._importance = importance
        self._weighted = groups * importance  # h_j w_j, [rows, groups, group_size]
        self._gain = torch.zeros_like(self.scale)  # <w, c>^2 / <c, c> of the best
        self._codes, self._products = torch.empty_like(groups), torch.empty_like(groups)
        if not plain.grid.symmetric:
            self._centre = (
                groups.amin(-1, True).clamp_(max=0) + groups.amax(-1, True).clamp_(0)
            ) / 2

    def try_range(self, factor: float) -> None:
        """Try the min-max range scaled by ``factor`` about its centre."""
        scale = self._plain_scale * factor
        if self._grid.symmetric:
            self._try(scale, None)
            return
        half_range = scale * ((1 << self._grid.bits) - 1) / 2
        zero_point = nearest_zero_point(self._centre - half_range, scale, self._grid)
        self._try(scale, zero_point.to(scale.dtype))

    def try_shift(self, shift: int) -> None:
        """Try the best grid so far with its zero point moved by ``shift``."""
        if self.zero_point is not None:
            shifted = (self.zero_point + shift).clamp_(self._grid.smallest, self._grid.largest)
            self._try(self.scale, shifted)

    def _try(self, scale: Tensor, zero_point: Tensor | None) -> None:
        # Codes c of the candidate, less the zero point.
        codes = torch.div(self._groups, scale, out=self._codes)
        if zero_point is None:
            self._grid.nearest_(codes)
        else:
            codes.round_()
            codes.clamp_(self._grid.smallest - zero_point, self._grid.largest - zero_point)
        # Least-squares scale <w, c> / <c, c> for these codes, and the loss it saves.
        inner = torch.mul(self._weighted, codes, out=self._products).sum(-1, keepdim=True)
        norm = codes.square_().mul_(self._importance).sum(-1, keepdim=True)
        scale = torch.where(norm > 0, inner / norm, self._plain_scale)
        gain = inner * scale
        # Keep it where it is the best so far.
        better = gain > self._gain
        self._gain = torch.where(better, gain, self._gain)
        self.scale = torch.where(better, scale, self.scale)
        if zero_point is not None and self.zero_point is not None:
            self.zero_point = torch.where(better, zero_point, self.zero_point)
