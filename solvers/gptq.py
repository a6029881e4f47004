"""GPTQ: round column by column, and let the columns still to come make up for each rounding error.

Minimises ||X(W - V)'||^2 over V on an integer grid, greedily. https://arxiv.org/abs/2210.17323,
section 3; lazy updates as in `column_loop`. A group's scale is fitted to the compensated weights at
its start. Static order walks the columns by falling input energy instead, with scales fitted to the
weights as given, so that codes and scales come out in natural order and cost nothing at run time.

Where we differ from the published code: weights on dead features are rounded to nearest instead of
zeroed, since a feature silent in calibration may speak later.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import SettingError
from .admission import require_mask, require_weight, require_width
from .column_loop import ColumnRule, run_column_loop
from .factor import Factor, factorize
from .gram import Gram
from .grid import Grid, Scales, fit_scales
from .results import Quantized
from .saliency import require_natural_order

Order = Literal["natural", "static"]


def quantize_gptq(
    weight: Tensor,
    gram: Gram | None,
    *,
    grid: Grid,
    scale_dtype: torch.dtype = torch.float32,
    mask: Tensor | None = None,
    factor: Factor | None = None,
    damping: float = 0.01,
    order: Order = "natural",
) -> Quantized:
    """Quantise [out_features, in_features] with error compensation.

    Where ``mask`` is False the weight is held at exactly zero and its loss is compensated too.
    ``factor`` reuses a factorisation, whose damping then holds instead of ``damping``; for
    ``order="static"`` it must come from ``factorize(gram, descending=True)``. Raises SettingError
    for arguments that do not fit, SolverError for values that are not finite or a Hessian that will
    not factorise.
    """
    require_weight(weight)
    if mask is not None:
        require_mask(weight, mask)
    if gram is not None:
        require_width(weight, gram.matrix, "Gram matrix")
    factor = factor or _factorize(gram, damping=damping, order=order)
    require_width(weight, factor.upper, "factor")
    rule = _run(weight, factor, grid=grid, scale_dtype=scale_dtype, mask=mask, order=order)
    quantized = Quantized.assemble(
        rule.codes.T.contiguous(),
        rule.scales,
        damping=factor.damping,
        escalations=factor.escalations,
    )
    return quantized if gram is None else quantized.measured(weight, gram)


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
) -> _Rounding:
    """Run the column loop on a transposed copy; the rule it went by holds the outcome."""
    columns = weight.detach().T.to(
        factor.upper.dtype, copy=True, memory_format=torch.contiguous_format
    )
    kept = None if mask is None else mask.T.contiguous()
    if order == "natural":
        require_natural_order(factor)
        rule = _Rounding(columns, grid, scale_dtype, kept)
    else:
        permutation = _require_order(factor)
        rule = _StaticRounding(columns, grid, scale_dtype, kept, permutation)
        columns = columns[permutation]
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
    """Fits a group's scales at its start, then rounds its columns one by one."""

    def __init__(
        self, columns: Tensor, grid: Grid, scale_dtype: torch.dtype, kept: Tensor | None
    ) -> None:
        self.codes = torch.empty_like(columns, dtype=torch.int8)
        self._grid = grid
        self._scale_dtype = scale_dtype
        self._kept = kept
        self._unit = grid.group_width(columns.shape[0])
        self._groups: list[Scales] = []

    @property
    def unit(self) -> int:
        return self._unit

    @property
    def scales(self) -> Scales:
        """Every group's scales joined, [out_features, groups, 1]."""
        scale = torch.stack([group.scale for group in self._groups], dim=1).unsqueeze(-1)
        points = [group.zero_point for group in self._groups if group.zero_point is not None]
        zero_point = torch.stack(points, dim=1).unsqueeze(-1) if points else None
        return Scales(scale, zero_point, self._grid)

    def begin(self, start: int, window: Tensor) -> None:
        if self._kept is not None:
            window = window * self._kept[start : start + self._unit]
        scales = fit_scales(window, grid=self._grid, scale_dtype=self._scale_dtype, dim=0)
        self._groups.append(scales.squeeze(0))

    def settle(self, index: int, column: Tensor) -> Tensor:
        if self._kept is not None:
            column = column * self._kept[index]
        scales = self._groups[index // self._unit]
        codes = scales.encode(column)
        self.codes[index].copy_(codes)
        return scales.decode(codes)


class _StaticRounding(_Rounding):
    """Fits all scales to the weights as given, and meets the columns in another order."""

    def __init__(
        self,
        columns: Tensor,
        grid: Grid,
        scale_dtype: torch.dtype,
        kept: Tensor | None,
        order: Tensor,
    ) -> None:
        super().__init__(columns, grid, scale_dtype, kept)
        for start in range(0, columns.shape[0], self._unit):
            super().begin(start, columns[start : start + self._unit])
        self._order = order.tolist()

    def begin(self, start: int, window: Tensor) -> None:
        """Nothing to decide: every scale is already fitted."""

    def settle(self, index: int, column: Tensor) -> Tensor:
        return super().settle(self._order[index], column)
