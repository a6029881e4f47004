"""The loop under SparseGPT and GPTQ: settle column after column, let the rest make up for it.

When column j settles on v_j instead of w_j, the least-squares answer of each later column k is
w_k -= (w_j - v_j) U_jk / U_jj, with U'U = H^-1 (https://arxiv.org/abs/2210.17323, section 3.3).

Two things make it fast and leave the result equal to rounding. The weight is worked on transposed,
so that a column is contiguous; and updates are lazy at several levels: a span of columns updates
only itself, and passes the errors of all its columns to the rest of its parent in one product.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

_SPANS = (128, 32, 8)


class ColumnRule(Protocol):
    """What a method decides, column by column."""

    @property
    def unit(self) -> int:
        """Columns decided on together."""

    def begin(self, start: int, window: Tensor) -> None:
        """See columns ``start`` on, [unit or fewer, out_features], with all errors applied."""

    def settle(self, index: int, column: Tensor) -> Tensor:
        """Return the values [out_features] that column ``index`` takes."""


def run_column_loop(columns: Tensor, upper: Tensor, rule: ColumnRule) -> None:
    """Settle every column of ``columns`` [in_features, out_features] in place.

    ``columns`` must be the caller's own copy; ``upper`` is U, [in_features, in_features].
    """
    shares = upper / upper.diagonal().unsqueeze(1)
    _Loop(columns, shares, rule).settle_span(0, columns.shape[0], _span_sizes(rule.unit))


def _span_sizes(unit: int) -> tuple[int, ...]:
    """Return falling span sizes such that no unit straddles a span at least as long as itself."""
    whole_units = {max(size // unit, 1) * unit for size in _SPANS}
    return tuple(sorted(whole_units.union(size for size in _SPANS if size < unit), reverse=True))


class _Loop:
    """One run: the columns, U with each row divided by its diagonal, and the errors made so far."""

    def __init__(self, columns: Tensor, shares: Tensor, rule: ColumnRule) -> None:
        self.columns = columns
        self.shares = shares
        self.rule = rule
        self.errors = torch.empty_like(columns)

    def settle_span(self, start: int, stop: int, sizes: tuple[int, ...]) -> None:
        """Settle [start, stop); on entry every earlier error is already applied within it."""
        if not sizes:
            self._settle_columns(start, stop)
            return
        for first in range(start, stop, sizes[0]):
            last = min(first + sizes[0], stop)
            self.settle_span(first, last, sizes[1:])
            if last < stop:
                self.columns[last:stop].addmm_(
                    self.shares[first:last, last:stop].T, self.errors[first:last], alpha=-1
                )

    def _settle_columns(self, start: int, stop: int) -> None:
        unit = self.rule.unit
        for index in range(start, stop):
            if index % unit == 0:
                self.rule.begin(index, self.columns[index : index + unit])
            column = self.columns[index]
            settled = self.rule.settle(index, column)
            error = torch.sub(column, settled, out=self.errors[index])
            column.copy_(settled)
            if index + 1 < stop:
                rest = self.columns[index + 1 : stop]
                rest.addr_(self.shares[index, index + 1 : stop], error, alpha=-1)
