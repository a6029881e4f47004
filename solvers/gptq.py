"""GPTQ: quantise column by column and let the later columns compensate for each rounding error.

Minimises ||X(W - V)'||^2 over V on an integer grid, greedily. https://arxiv.org/abs/2210.17323,
section 3; lazy updates as in `column_loop`.

Static order processes the columns by falling input energy, with scales fitted to the original
weights. Codes and scales are stored in natural order, so it costs nothing at inference. In natural
order, the scale of a group is fitted to the compensated weights when the group starts.

Differences from the published code: scales are searched, not set by the extremes (`grid_search`),
weighted as GPTQ's own loss weights rounding errors; the result can be refined afterwards
(`refinement`); and weights of dead features are rounded to nearest instead of being set to zero,
because a feature that is zero in calibration may be non-zero later.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_mask, require_weight, require_width
from .column_loop import BLOCK_SIZE, BlockPlan, ColumnRule, run_column_loop
from .column_rounding import ColumnRounder, rounders_of
from .factor import Factor, factorize
from .gram import Gram
from .grid import Grid, Scales, require_exact_zero
from .grid_search import ScaleRule, fit_groups
from .refinement import refine
from .results import QuantizedWeight
from .saliency import require_natural_order
from .target import target_weight

Order = Literal["natural", "static"]


def quantize_gptq(
    weight: Tensor,
    gram: Gram | None,
    *,
    grid: Grid,
    scale_dtype: torch.dtype = torch.float32,
    mask: Tensor | None = None,
    factor: Factor | None = None,
    matching: float = 0.0,
    damping: float = 0.01,
    order: Order | None = None,
    scales: ScaleRule = "searched",
    refit: bool = False,
    sweeps: int = 0,
) -> QuantizedWeight:
    """Quantise with error compensation.

    Args:
        weight: [out_features, in_features], any floating dtype.
        gram: Gram matrix of the inputs; may be None if ``factor`` is given and no option needs it.
        grid: the integer grid.
        scale_dtype: dtype that scales are stored in, unless the grid has its own.
        mask: boolean, same shape as ``weight``; False holds a weight at exactly zero, and the error
            of that is compensated too.
        factor: a factorisation to reuse; its damping replaces ``damping``. For order "static" it
            must come from ``factorize(gram, descending=True)``.
        matching: fraction of the upstream error to correct, see `target_weight`; needs ``gram``.
        damping: added to the Hessian's diagonal, as a fraction of its mean.
        order: "static" or "natural"; default: the order of ``factor`` if given, else "static".
        scales: "searched" or "minmax", see `grid_search`.
        refit: refit the scales afterwards, see `refine`; needs ``gram``.
        sweeps: passes of coordinate descent over the codes, see `refine`; needs ``gram``.

    Raises:
        SettingError: an argument is out of range or has the wrong shape.
        SolverError: a value is not finite, or the Hessian cannot be factorised.
    """
    require_weight(weight)
    if mask is not None:
        require_mask(weight, mask)
    require_exact_zero(grid, mask)
    if gram is not None:
        require_width(weight, gram.matrix, "Gram matrix")
    if gram is None and (refit or sweeps or matching):
        raise SettingError(
            "gptq needs the Gram matrix for matching, refit and sweeps, but was given only a "
            "factor; give the Gram matrix too"
        )
    order = order or ("natural" if factor is not None and factor.order is None else "static")
    factor = factor or _factorize(gram, damping=damping, order=order)
    require_width(weight, factor.upper, "factor")
    target = weight if gram is None else target_weight(weight, gram, factor, matching=matching)
    rule = _run(
        target, factor, grid=grid, scale_dtype=scale_dtype, mask=mask, order=order, scales=scales
    )
    quantized = QuantizedWeight.assemble(
        rule.codes.T.contiguous(),
        rule.scales,
        damping=factor.damping,
        escalations=factor.escalations,
    )
    if gram is None:
        return quantized
    if refit or sweeps:
        quantized = refine(
            target, quantized, gram, damping=factor.damping, mask=mask, refit=refit, sweeps=sweeps
        )
    return quantized.measured(weight, gram)


def _factorize(gram: Gram | None, *, damping: float, order: Order) -> Factor:
    if gram is None:
        raise SettingError(
            "gptq was given neither a Gram matrix nor a factor; calibrate first, or use 'rtn'"
        )
    return factorize(gram, damping=damping, descending=order == "static")


def _run(
    weight: Tensor,
    factor: Factor,
    *,
    grid: Grid,
    scale_dtype: torch.dtype,
    mask: Tensor | None,
    order: Order,
    scales: ScaleRule,
) -> _Rounding:
    """Run the column loop on a transposed copy; the returned rule holds codes and scales."""
    columns = weight.detach().T.to(  # [in, out]
        factor.upper.dtype, copy=True, memory_format=torch.contiguous_format
    )
    kept = None if mask is None else mask.T.contiguous()
    importance = factor.upper.diagonal().square().reciprocal_()  # 1 / U_jj^2, [in]
    if order == "natural":
        require_natural_order(factor)
        rule = _Rounding(columns, grid, scale_dtype, kept, scales, importance)
    else:
        permutation = _require_order(factor)
        importance = torch.empty_like(importance).index_copy_(0, permutation, importance)
        rule = _StaticRounding(columns, grid, scale_dtype, kept, scales, importance, permutation)
        columns = columns.index_select(0, permutation)
    run_column_loop(columns, factor.upper, rule)
    return rule


def _require_order(factor: Factor) -> Tensor:
    if factor.order is None:
        raise SettingError(
            "order 'static' was given a factor in natural order; "
            "call factorize(gram, descending=True)"
        )
    return factor.order


class _Rounding(ColumnRule):
    """Natural order: fits scales when a group or super-block starts, then rounds its columns."""

    def __init__(
        self,
        columns: Tensor,
        grid: Grid,
        scale_dtype: torch.dtype,
        kept: Tensor | None,
        scales: ScaleRule = "searched",
        importance: Tensor | None = None,
    ) -> None:
        self.codes = torch.empty_like(columns, dtype=torch.int8)
        self._grid = grid
        self._scale_dtype = scale_dtype
        self._kept = kept
        self._rule = scales
        self._importance = importance
        self._group_width = grid.group_width(columns.shape[0])
        self._unit = grid.fitted_width(columns.shape[0])
        self._fitted: list[Scales] = []
        self._rounders: list[ColumnRounder] = []

    @property
    def unit(self) -> int:
        return self._unit

    @property
    def scales(self) -> Scales:
        """The scales of all groups, [out_features, groups]."""
        return Scales.joined(self._fitted, dim=1)

    def begin(self, start: int, window: Tensor) -> None:
        self._fit(start, window)

    def _fit(self, start: int, window: Tensor) -> None:
        """Fit the scales of the groups in ``window`` [columns, out_features]."""
        stop = start + window.shape[0]
        if self._kept is not None:
            window = window * self._kept[start:stop]
        num_rows = window.shape[1]
        groups = window.T.contiguous().view(num_rows, -1, self._group_width)  # [out, groups, size]
        importance = None
        if self._importance is not None:
            importance = self._importance[start:stop].view(-1, self._group_width)
        scales = fit_groups(
            groups,
            grid=self._grid,
            scale_dtype=self._scale_dtype,
            rule=self._rule,
            importance=importance,
        )
        self._fitted.append(scales)
        self._rounders += rounders_of(scales, window.dtype)

    def settle(self, index: int, column: Tensor) -> Tensor:
        if self._kept is not None:
            column = column * self._kept[index]
        return self._rounders[index // self._group_width].round(column, self.codes[index])

    @property
    def plans_blocks(self) -> bool:
        # A group that starts inside a block is fitted to weights that the block itself updates,
        # so its scales are not known when the block starts.
        if self._grid.super_block or self._grid.levels:  # not supported by the kernel
            return False
        return self._unit % BLOCK_SIZE == 0 or self._unit == self.codes.shape[0]

    def plan(self, start: int, rest: Tensor) -> BlockPlan:
        if start % self._unit == 0:
            self.begin(start, rest[: self._unit])
        return self._plan(places=None)

    def _plan(self, *, places: Tensor | None) -> BlockPlan:
        return BlockPlan(
            kept=self._kept,
            scales=Scales.joined([_transposed(each) for each in self._fitted], dim=0),
            group_size=self._group_width,
            codes=self.codes,
            places=places,
        )


class _StaticRounding(_Rounding):
    """Static order: fits all scales to the original weights, then rounds columns in ``order``."""

    def __init__(
        self,
        columns: Tensor,
        grid: Grid,
        scale_dtype: torch.dtype,
        kept: Tensor | None,
        scales: ScaleRule,
        importance: Tensor,
        order: Tensor,
    ) -> None:
        super().__init__(columns, grid, scale_dtype, kept, scales, importance)
        self._fit(0, columns)
        self._order = order.tolist()
        self._places = order

    @property
    def unit(self) -> int:
        return BLOCK_SIZE

    def begin(self, start: int, window: Tensor) -> None:
        """Nothing to do: all scales are fitted already."""

    def settle(self, index: int, column: Tensor) -> Tensor:
        return super().settle(self._order[index], column)

    @property
    def plans_blocks(self) -> bool:
        return not (self._grid.super_block or self._grid.levels)

    def plan(self, start: int, rest: Tensor) -> BlockPlan:
        return self._plan(places=self._places[start : start + BLOCK_SIZE])


def _transposed(scales: Scales) -> Scales:
    zero_point = None if scales.zero_point is None else scales.zero_point.T.contiguous()
    return Scales(scales.scale.T.contiguous(), zero_point, scales.grid)
