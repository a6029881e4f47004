"""What solvers give back: a pruned or a quantised weight, its mask or codes, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .gram import Gram
from .grid import Grid, Scales, SuperBlocks
from .output_error import relative_output_error


@dataclass(frozen=True, eq=False)
class PrunedWeight:
    """A weight with zeros in it.

    Attributes:
        weight: [out_features, in_features] in the dtype given; exactly +0.0 wherever mask is False.
        mask: boolean, same shape, True = kept.
        relative_errors: ||X(W - V)'||^2 / ||XW'||^2 of this very weight on the calibration inputs,
            for each layer that was stacked into it.
        damping: relative damping of the Hessian, None if the method uses none.
        escalations: tenfold raises the damping needed.
    """

    weight: Tensor
    mask: Tensor
    relative_errors: tuple[float, ...]
    damping: float | None = None
    escalations: int = 0

    @property
    def relative_error(self) -> float:
        """The largest of the relative errors."""
        return max(self.relative_errors)


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight as small integers: value = (code - zero_point) * scale, or code * scale - minimum.

    Attributes:
        codes: int8 [out_features, in_features].
        scales: [out_features, groups] in the dtype they are stored in.
        zero_points: int8 [out_features, groups], None for a symmetric grid or one with minimums.
        grid: the grid the codes live on.
        relative_error: as in `PrunedWeight`, of the float32 dequantised weight; None without Gram.
        damping: relative damping of the Hessian, None if the method uses none.
        escalations: tenfold raises the damping needed.
        minimums: float32 [out_features, groups], None for an ordinary grid.
        super_blocks: what scales and minimums are stored as, None for an ordinary grid.
    """

    codes: Tensor
    scales: Tensor
    zero_points: Tensor | None
    grid: Grid
    relative_error: float | None = None
    damping: float | None = None
    escalations: int = 0
    minimums: Tensor | None = None
    super_blocks: SuperBlocks | None = None

    @classmethod
    def assemble(
        cls, codes: Tensor, scales: Scales, *, damping: float | None = None, escalations: int = 0
    ) -> QuantizedWeight:
        """Join int8 codes [out, in] with scales [out, groups]; nothing is measured yet."""
        return cls(
            codes,
            scales.scale,
            scales.zero_point,
            scales.grid,
            damping=damping,
            escalations=escalations,
            minimums=scales.minimum,
            super_blocks=scales.super_blocks,
        )

    def measured(self, weight: Tensor, gram: Gram) -> QuantizedWeight:
        """Return the same with ``relative_error`` against the ``weight`` it stands for."""
        error = relative_output_error(weight, self.dequantize(), gram)
        return replace(self, relative_error=error)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weight [out_features, in_features], each operation rounded to ``dtype``.

        In float32 that is what a reader of the stored codes computes, to the last bit.
        """
        rows, groups = self.scales.shape
        values = self.codes.view(rows, groups, -1).to(dtype)
        if self.zero_points is not None:
            values = values - self.zero_points.unsqueeze(-1).to(dtype)
        values = values * self.scales.unsqueeze(-1).to(dtype)
        if self.minimums is not None:
            values = values - self.minimums.unsqueeze(-1).to(dtype)
        return values.view(self.codes.shape)
