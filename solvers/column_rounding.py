"""Rounding one column to its group's grid, as often and as fast as the column loop needs it.

Performs the operations of `Scales.encode` and `Scales.decode` in the same order, so the codes are
bit-identical. What is constant for a group is prepared once, and no memory is allocated per column,
except for unevenly spaced codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .grid import Grid, Scales


def rounders_of(scales: Scales, dtype: torch.dtype) -> list[ColumnRounder]:
    """Return a rounder for each group of ``scales`` [out_features, groups]; they share a buffer."""
    value = torch.empty_like(scales.scale[:, 0], dtype=dtype)
    return [
        ColumnRounder(scales.grid, value, scale, zero_point, minimum)
        for scale, zero_point, minimum in zip(
            scales.scale.T.to(dtype).contiguous(),
            _by_group(scales.zero_point, scales.scale.shape[1], dtype),
            _by_group(scales.minimum, scales.scale.shape[1], dtype),
            strict=True,
        )
    ]


def _by_group(part: Tensor | None, num_groups: int, dtype: torch.dtype) -> Sequence[Tensor | None]:
    """Return zero points or minimums as one row [out_features] per group, or one None per group."""
    return [None] * num_groups if part is None else part.T.to(dtype).contiguous().unbind()


class ColumnRounder:
    """Rounds columns of one group, in place and without allocating."""

    def __init__(
        self,
        grid: Grid,
        value: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        minimum: Tensor | None,
    ) -> None:
        self._smallest, self._largest = grid.smallest, grid.largest
        self._uneven = grid if grid.levels else None
        self._value, self._scale = value, scale
        self._zero_point, self._minimum = zero_point, minimum

    def round(self, column: Tensor, codes: Tensor) -> Tensor:
        """Write the integer codes of ``column`` to ``codes``; return the values they decode to.

        All are [out_features]. The returned tensor is overwritten by the next call.
        """
        value = self._value
        if self._minimum is not None:
            column = column + self._minimum
        torch.div(column, self._scale, out=value)
        if self._uneven is not None:
            codes.copy_(self._uneven.nearest_(value))
            return value.mul_(self._scale)
        value.round_()
        if self._zero_point is not None:
            value.add_(self._zero_point)
        codes.copy_(value.clamp_(self._smallest, self._largest))
        if self._zero_point is not None:
            value.sub_(self._zero_point)
        value.mul_(self._scale)
        return value if self._minimum is None else value.sub_(self._minimum)
