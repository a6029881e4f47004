"""The loop under SparseGPT and GPTQ: settle column after column, let the rest make up for it.

When column j settles on v_j instead of w_j, the least-squares answer of each later column k is
w_k -= (w_j - v_j) U_jk / U_jj, with U'U = H^-1 (https://arxiv.org/abs/2210.17323, section 3.3).

Two things make it fast and leave the result equal to rounding. The weight is worked on transposed,
so that a column is contiguous; and updates are lazy at several levels: a span of columns updates
only itself, and passes the errors of all its columns to the rest of its parent in one product.

On a GPU a Triton kernel does the same (`triton_loop`), by the rule that `runs_on_chip` states; this
loop stays its reference.
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
SPANS = (BLOCK_SIZE, 32, 8)


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """What a block's columns settle by: all of it known before the first of them is met.

    Tensors are of the whole weight; a kernel reads and writes the rows of this block's columns.

    Attributes:
        kept: bool [in_features, out_features], False where a weight is held at zero, and counts as
            zero before it is rounded; None to hold none.
        n_of_m: choose n of every m columns as each group of them is met, and write it to ``kept``;
            m is a power of two up to 32.
        scales: [groups, out_features], to round to; None to leave values as they are.
        group_size: columns that share a scale.
        codes: int8 [in_features, out_features], where codes are written; None without scales.
        places: int64, for each of the block's columns its row in ``kept`` and ``codes``, and times
            ``group_size`` in ``scales``; None where that is the column's own index.
    """

    kept: Tensor | None = None
    n_of_m: tuple[int, int] | None = None
    scales: Scales | None = None
    group_size: int = 1
    codes: Tensor | None = None
    places: Tensor | None = None


class ColumnRule(Protocol):
    """What a method decides, column by column."""

    @property
    def unit(self) -> int:
        """Columns decided on together."""

    def begin(self, start: int, window: Tensor) -> None:
        """See columns ``start`` on, [unit or fewer, out_features], with all errors applied."""

    def settle(self, index: int, column: Tensor) -> Tensor:
        """Return the values [out_features] that column ``index`` takes, valid until the next."""

    @property
    def plans_blocks(self) -> bool:
        """Whether `plan` can stand in for `begin` and `settle`."""
        return False

    def plan(self, start: int, rest: Tensor) -> BlockPlan:
        """Tell all about the block at ``start``, seeing every column from there on."""
        raise NotImplementedError(f"{type(self).__name__} settles column by column")


def run_column_loop(columns: Tensor, upper: Tensor, rule: ColumnRule) -> None:
    """Settle every column of ``columns`` [in_features, out_features] in place.

    ``columns`` must be the caller's own copy; ``upper`` is U, [in_features, in_features].
    """
    shares = upper / upper.diagonal().unsqueeze(1)
    if runs_on_chip(columns, rule):
        from .triton_loop import settle_blocks  # the one import of Triton, which is optional

        settle_blocks(columns, shares, upper.diagonal().contiguous(), rule)
    else:
        walk(_Loop(columns, shares, rule), 0, columns.shape[0], _span_sizes(rule.unit))


def runs_on_chip(columns: Tensor, rule: ColumnRule) -> bool:
    """Return whether the kernel runs: float32 on CUDA, blocks planned ahead, Triton installed."""
    planned = columns.is_cuda and columns.dtype == torch.float32 and rule.plans_blocks
    return planned and find_spec("triton") is not None


def _span_sizes(unit: int) -> tuple[int, ...]:
    """Return falling span sizes such that no unit straddles a span at least as long as itself."""
    whole_units = {max(size // unit, 1) * unit for size in SPANS}
    return tuple(sorted(whole_units.union(size for size in SPANS if size < unit), reverse=True))


class _Loop:
    """One run: the columns, U with each row divided by its diagonal, and the errors made so far."""

    def __init__(self, columns: Tensor, shares: Tensor, rule: ColumnRule) -> None:
        self.columns = columns
        self.shares = shares
        self.rule = rule
        self.errors = torch.empty_like(columns)
        self._column, self._error = columns.unbind(), self.errors.unbind()

    def pass_on(self, first: int, last: int, stop: int) -> None:
        self.columns[last:stop].addmm_(
            self.shares[first:last, last:stop].T, self.errors[first:last], alpha=-1
        )

    def settle_columns(self, start: int, stop: int) -> None:
        unit = self.rule.unit
        for index in range(start, stop):
            if index % unit == 0:
                self.rule.begin(index, self.columns[index : index + unit])
            column = self._column[index]
            settled = self.rule.settle(index, column)
            error = torch.sub(column, settled, out=self._error[index])
            column.copy_(settled)
            if index + 1 < stop:
                rest = self.columns[index + 1 : stop]
                rest.addr_(self.shares[index, index + 1 : stop], error, alpha=-1)


class Walked(Protocol):
    """What is done on the way."""

    def settle_columns(self, start: int, stop: int) -> None:
        """Settle columns ``start`` to ``stop``, every earlier change being applied to them."""

    def pass_on(self, first: int, last: int, stop: int) -> None:
        """Apply to columns ``last`` to ``stop`` what was changed in ``first`` to ``last``."""


def walk(walked: Walked, start: int, stop: int, sizes: Sequence[int]) -> None:
    """Settle [start, stop) in spans of falling ``sizes``."""
    if not sizes:
        walked.settle_columns(start, stop)
        return
    for first in range(start, stop, sizes[0]):
        last = min(first + sizes[0], stop)
        walk(walked, first, last, sizes[1:])
        if last < stop:
            walked.pass_on(first, last, stop)
