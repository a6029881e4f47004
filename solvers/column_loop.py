"""The loop shared by SparseGPT and GPTQ: fix one column, compensate in the later ones.

When column j changes from w_j to v_j, the least-squares update of each later column k is w_k -=
(w_j - v_j) U_jk / U_jj, with U'U = H^-1 (https://arxiv.org/abs/2210.17323, section 3.3).

Two things make it fast; both change the result only by rounding. The weight is transposed, so that
a column is contiguous in memory. Updates are applied lazily at several levels: a span of columns
updates only itself, then passes the errors of all its columns to the rest of its parent span in one
matrix product.

On a GPU a Triton kernel does the same (`triton_loop`) under the conditions of `uses_triton`. The
code in this file is its reference.

Legend: W transposed is ``columns`` [in_features, out_features]; U is ``upper``; e_j = w_j - v_j is
the error of column j.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from .grid import Scales

BLOCK_SIZE = 128
"""Columns in a block: the widest span, and what one launch of the Triton kernel handles."""

SPANS = (BLOCK_SIZE, 32, 8)
"""Widths of the nested spans of columns."""


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """Everything that decides a block's values, known before its first column is processed.

    The tensors cover the whole weight; a kernel reads and writes the rows of this block's columns.

    Attributes:
        kept: bool [in_features, out_features], False where a weight is held at zero (before
            rounding); None if all are kept.
        n_of_m: keep n of every m columns, chosen at the start of each group and written to
            ``kept``; m is a power of two up to 32.
        scales: [groups, out_features] to round to; None to leave values unrounded.
        group_size: columns that share a scale.
        codes: int8 [in_features, out_features], where codes are written; None without scales.
        places: int64 [columns of the block], the row in ``kept`` and ``codes`` (and, times
            ``group_size``, in ``scales``) of each column; None if that is the column's own index.
    """

    kept: Tensor | None = None
    n_of_m: tuple[int, int] | None = None
    scales: Scales | None = None
    group_size: int = 1
    codes: Tensor | None = None
    places: Tensor | None = None


class ColumnRule(Protocol):
    """What a method decides for each column."""

    @property
    def unit(self) -> int:
        """How many columns are decided together."""

    def begin(self, start: int, window: Tensor) -> None:
        """Prepare for the columns from ``start`` on, given them with all earlier errors applied.

        ``window`` is [columns, out_features] with at most `unit` columns.
        """

    def settle(self, index: int, column: Tensor) -> Tensor:
        """Return the final values of a column, [out_features]; valid until the next call."""

    @property
    def plans_blocks(self) -> bool:
        """Whether `plan` can replace `begin` and `settle`."""
        return False

    def plan(self, start: int, rest: Tensor) -> BlockPlan:
        """Return the plan of the block at ``start``; ``rest`` holds all columns from there on."""
        raise NotImplementedError(
            f"{type(self).__name__} decides column by column and cannot plan a block"
        )


def run_column_loop(columns: Tensor, upper: Tensor, rule: ColumnRule) -> None:
    """Replace every column of ``columns`` by its final values, in place.

    Args:
        columns: W transposed, [in_features, out_features]; must be the caller's own copy.
        upper: U, [in_features, in_features].
        rule: decides the final values.
    """
    coefficients = upper / upper.diagonal().unsqueeze(1)  # U_jk / U_jj, [in, in]
    if uses_triton(columns, rule):
        from .triton_loop import settle_blocks  # Triton is optional and imported only here

        settle_blocks(columns, coefficients, upper.diagonal().contiguous(), rule)
    else:
        loop = _Loop(columns, coefficients, rule)
        process_spans(loop, 0, columns.shape[0], _span_sizes(rule.unit))


def uses_triton(columns: Tensor, rule: ColumnRule) -> bool:
    """Return whether the Triton kernel runs: float32 on CUDA, plannable rule, Triton installed."""
    planned = columns.is_cuda and columns.dtype == torch.float32 and rule.plans_blocks
    return planned and find_spec("triton") is not None


def _span_sizes(unit: int) -> tuple[int, ...]:
    """Return falling span sizes such that no unit straddles two spans that are at least as long."""
    whole_units = {max(size // unit, 1) * unit for size in SPANS}
    return tuple(sorted(whole_units.union(size for size in SPANS if size < unit), reverse=True))


class _Loop:
    """One run of the loop: the columns, U_jk / U_jj, and the errors so far."""

    def __init__(self, columns: Tensor, coefficients: Tensor, rule: ColumnRule) -> None:
        self.columns = columns
        self.coefficients = coefficients
        self.rule = rule
        self.errors = torch.empty_like(columns)  # e_j, [in, out]
        self._column, self._error = columns.unbind(), self.errors.unbind()

    def pass_on(self, first: int, last: int, stop: int) -> None:
        # w_k -= sum_j e_j U_jk / U_jj, in one product
        self.columns[last:stop].addmm_(
            self.coefficients[first:last, last:stop].T, self.errors[first:last], alpha=-1
        )

    def settle_columns(self, start: int, stop: int) -> None:
        unit = self.rule.unit
        for index in range(start, stop):
            if index % unit == 0:
                self.rule.begin(index, self.columns[index : index + unit])
            column = self._column[index]  # w_j, [out]
            final = self.rule.settle(index, column)  # v_j
            error = torch.sub(column, final, out=self._error[index])  # e_j
            column.copy_(final)
            if index + 1 < stop:
                # w_k -= e_j U_jk / U_jj for the rest of this span
                rest = self.columns[index + 1 : stop]
                rest.addr_(self.coefficients[index, index + 1 : stop], error, alpha=-1)


class SpanProcessor(Protocol):
    """What `process_spans` calls."""

    def settle_columns(self, start: int, stop: int) -> None:
        """Compute the final values of columns [start, stop), to which all updates are applied."""

    def pass_on(self, first: int, last: int, stop: int) -> None:
        """Update columns [last, stop) for the changes of columns [first, last)."""


def process_spans(processor: SpanProcessor, start: int, stop: int, sizes: Sequence[int]) -> None:
    """Process columns [start, stop) in nested spans of falling ``sizes``.

    After each span, the rest of its parent is updated; columns outside [start, stop) are not.
    """
    if not sizes:
        processor.settle_columns(start, stop)
        return
    for first in range(start, stop, sizes[0]):
        last = min(first + sizes[0], stop)
        process_spans(processor, first, last, sizes[1:])
        if last < stop:
            processor.pass_on(first, last, stop)
