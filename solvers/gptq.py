"""GPTQ: round column by column, and let the columns still to come make up for each rounding error.

Minimises ||X(W - V)'||^2 over V on an integer grid, greedily. https://arxiv.org/abs/2210.17323,
section 3; lazy updates as in `column_loop`. Static order walks the columns by falling input energy,
with scales fitted to the weights as given, so that codes and scales come out in natural order and
cost nothing at run time. In natural order a group's scale is fitted to the compensated weights at
its start.

Where we differ from the published code: scales are searched for rather than set by the extremes
(`grid_search`), under the weights that the loop's own loss puts on rounding errors; what the loop
leaves can be refined (`refinement`); and weights on dead features are rounded to nearest instead of
zeroed, since a feature silent in calibration may speak later.
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
from .target import matched_weight

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
    """Quantise [out_features, in_features] with error compensation.

    Where ``mask`` is False the weight is held at exactly zero and its loss is compensated too.
    ``factor`` reuses a factorisation, whose damping then holds instead of ``damping``; for
    ``order="static"`` it must come from ``factorize(gram, descending=True)``. No ``order`` means
    the factor's own where one is given, else the better one, static. ``matching`` is the share of
    `matched_weight`, ``refit`` and ``sweeps`` are those of `refine`; all need the Gram. Raises
    SettingError for arguments that do not fit, SolverError for values that are not finite or a
    Hessian that will not factorise.
    """
    require_weight(weight)
    if mask is not None:
        require_mask(weight, mask)
    require_exact_zero(grid, mask)
    if gram is not None:
        require_width(weight, gram.matrix, "Gram matrix")
    if gram is None and (refit or sweeps or matching):
        raise SettingError(
            "gptq can neither match nor refine (refit or sweeps) by a factor alone; give the Gram "
            "matrix too"
        )
    order = order or ("natural" if factor is not None and factor.order is None else "static")
    factor = factor or _factorize(gram, damping=damping, order=order)
    require_width(weight, factor.upper, "factor")
    target = weight if gram is None else matched_weight(weight, gram, factor, share=matching)
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
    """Run the column loop on a transposed copy; the rule it went by holds the outcome."""
    columns = weight.detach().T.to(
        factor.upper.dtype, copy=True, memory_format=torch.contiguous_format
    )
    kept = None if mask is None else mask.T.contiguous()
    importance = factor.upper.diagonal().square().reciprocal_()
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
            "make it with factorize(gram, descending=True)"
        )
    return factor.order


class _Rounding(ColumnRule):
    """Fits scales at the start of a group or super-block, then rounds its columns one by one."""

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
        """Every group's scales joined, [out_features, groups]."""
        return Scales.joined(self._fitted, dim=1)

    def begin(self, start: int, window: Tensor) -> None:
        self._fit(start, window)

    def _fit(self, start: int, window: Tensor) -> None:
        """Fit the groups that lie in ``window`` [columns, out_features]."""
        stop = start + window.shape[0]
        if self._kept is not None:
            window = window * self._kept[start:stop]
        groups = window.T.contiguous().view(window.shape[1], -1, self._group_width)
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
        # A group that starts inside a block is fitted there, to what the block has done to it.
        if self._grid.super_block:  # the kernel knows of no minimums
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
    """Fits all scales to the weights as given, and meets the columns in another order."""

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
        """Nothing to decide: every scale is already fitted."""

    def settle(self, index: int, column: Tensor) -> Tensor:
        return super().settle(self._order[index], column)

    @property
    def plans_blocks(self) -> bool:
        return not self._grid.super_block

    def plan(self, start: int, rest: Tensor) -> BlockPlan:
        return self._plan(places=self._places[start : start + BLOCK_SIZE])


def _transposed(scales: Scales) -> Scales:
    zero_point = None if scales.zero_point is None else scales.zero_point.T.contiguous()
    return Scales(scales.scale.T.contiguous(), zero_point, scales.grid)
