"""What solvers return: a pruned or a quantised weight with its mask or codes and its error."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .gram import Gram
from .grid import Grid, Scales, SuperBlocks
from .output_error import relative_output_error


@dataclass(frozen=True, eq=False)
class PrunedWeight:
    """A pruned weight.

    Attributes:
        weight: [out_features, in_features] in the dtype of the input; exactly +0.0 where mask is
            False.
        mask: boolean, same shape, True = kept.
        relative_errors: relative output error ||X(W - V)'||^2 / ||XW'||^2 on the calibration
            inputs, one for each layer whose rows were stacked.
        damping: damping of the Hessian used, relative to its mean diagonal; None if the method has
            none.
        escalations: how many times the damping was multiplied by ten.
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
    """A quantised weight: integer codes with one scale per group of columns.

    A value is ``(code - zero_point) * scale``, or ``code * scale - minimum`` on a grid with
    minimums.

    Attributes:
        codes: int8 [out_features, in_features], the quantised weights.
        scales: [out_features, groups] in the dtype they are stored in.
        zero_points: int8 [out_features, groups]; None on a symmetric grid or one with minimums.
        grid: the quantisation grid.
        relative_error: relative output error of the weight dequantised in float32, as in
            `PrunedWeight`; None if it was not measured.
        damping: damping of the Hessian used, relative to its mean diagonal; None if the method has
            none.
        escalations: how many times the damping was multiplied by ten.
        minimums: float32 [out_features, groups]; None on an ordinary grid.
        super_blocks: how scales and minimums are stored in the file; None on an ordinary grid.
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
        """Combine int8 codes [out_features, in_features] with scales [out_features, groups].

        ``relative_error`` stays None; `measured` computes it.
        """
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
        """Return a copy with ``relative_error`` measured against the original ``weight``."""
        error = relative_output_error(weight, self.dequantize(), gram)
        return replace(self, relative_error=error)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weight [out_features, in_features], each operation rounded to ``dtype``.

        In float32 the result is bit-identical to what a reader of the saved codes computes.
        """
        rows, groups = self.scales.shape
        values = self.codes.view(rows, groups, -1).to(dtype)  # [out, groups, group_size]
        if self.zero_points is not None:
            values = values - self.zero_points.unsqueeze(-1).to(dtype)
        values = values * self.scales.unsqueeze(-1).to(dtype)
        if self.minimums is not None:
            values = values - self.minimums.unsqueeze(-1).to(dtype)
        return values.view(self.codes.shape)
