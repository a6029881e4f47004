"""SparseGPT: prune column by column, and let the columns still to come make up for each loss.

Minimises ||X(W - V)'||^2 over masked V, greedily. https://arxiv.org/abs/2301.00774, algorithm 1: a
block of 128 columns is masked at its start by W_ij^2 / U_jj^2, ranked over all rows at once; n:m
groups are masked at their own start. Weights on dead features are zeroed first, as published.

Where we differ from the published code: the count is exact (a block's share is rounded so that the
layer's total comes out right), and n:m groups never straddle a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .budget import Budget
from .checks import require_finite, require_mask, require_weight, require_width
from .column_loop import BLOCK_SIZE, BlockPlan, ColumnRule, run_column_loop
from .factor import Factor, factorize
from .gram import Gram
from .masks import UNSTRUCTURED, Pattern, drop_smallest, keep_n_largest
from .output_error import relative_output_errors
from .results import PrunedWeight
from .saliency import require_natural_order
from .target import matched_weight


def prune_sparsegpt(
    weight: Tensor,
    gram: Gram,
    *,
    sparsity: float | None = None,
    pattern: Pattern = UNSTRUCTURED,
    heights: Sequence[int] | None = None,
    factor: Factor | None = None,
    matching: float = 0.0,
    damping: float = 0.01,
) -> PrunedWeight:
    """Prune with SparseGPT, removing ``round(sparsity * n)`` weights of the layer, or to n:m.

    ``heights`` are the rows of each layer where several are stacked, each of which loses its own
    share. ``factor`` reuses a factorisation of the same Gram, and its damping then holds instead of
    ``damping``; ``matching`` is the share of `matched_weight`. Raises SettingError for arguments
    that do not fit, SolverError for values that are not finite or a Hessian that will not
    factorise.
    """
    require_weight(weight)
    require_width(weight, gram.matrix, "Gram matrix")
    budget = Budget.of(weight, sparsity=sparsity, pattern=pattern, heights=heights)
    factor = factor or factorize(gram, damping=damping)
    kept = torch.empty_like(weight.T, dtype=torch.bool, memory_format=torch.contiguous_format)
    rule: _Selection
    if pattern.n_of_m is None:
        rule = _BlockSelection(kept, factor.upper, budget)
    else:
        rule = _GroupSelection(kept, factor.upper, *pattern.n_of_m)
    thinned = _run(matched_weight(weight, gram, factor, share=matching), factor, rule)
    return PrunedWeight(
        thinned,
        kept.T.contiguous(),
        relative_output_errors(weight, thinned, gram, heights=budget.heights),
        factor.damping,
        factor.escalations,
    )


def sparsegpt_update(weight: Tensor, factor: Factor, mask: Tensor) -> Tensor:
    """Return the weight with ``mask`` (True = kept) applied and SparseGPT's compensation made.

    The mask may come from any method; values are the dtype given, +0.0 where the mask is False.
    """
    require_weight(weight)
    require_mask(weight, mask)
    return _run(weight, factor, _Selection(mask.T.contiguous(), weight.shape[1]))


def _run(weight: Tensor, factor: Factor, rule: _Selection) -> Tensor:
    """Run the column loop on a transposed copy and return the weight in its own dtype."""
    require_width(weight, factor.upper, "factor")
    require_natural_order(factor)
    columns = weight.detach().T.to(
        factor.upper.dtype, copy=True, memory_format=torch.contiguous_format
    )
    columns[factor.dead] = 0.0
    run_column_loop(columns, factor.upper, rule)
    thinned = columns.masked_fill_(~rule.kept, 0.0).T.to(weight.dtype).contiguous()
    require_finite(thinned, f"pruned weight in {weight.dtype}")
    return thinned


class _Selection(ColumnRule):
    """Removes what ``kept`` [in_features, out_features] says, and fixes nothing itself."""

    def __init__(self, kept: Tensor, unit: int) -> None:
        self.kept = kept
        self._unit = unit

    @property
    def unit(self) -> int:
        return self._unit

    def begin(self, start: int, window: Tensor) -> None:
        """Nothing to decide: the mask was given."""

    def settle(self, index: int, column: Tensor) -> Tensor:
        return column * self.kept[index]

    @property
    def plans_blocks(self) -> bool:
        return True

    def plan(self, start: int, rest: Tensor) -> BlockPlan:
        self.begin(start, rest[: self._unit])
        return BlockPlan(kept=self.kept)


class _BlockSelection(_Selection):
    """Masks a block at a time by OBS score, all rows of a layer together."""

    def __init__(self, kept: Tensor, upper: Tensor, budget: Budget) -> None:
        super().__init__(kept, BLOCK_SIZE)
        self._diagonal = upper.diagonal().unsqueeze(1)
        self._budget = budget

    def begin(self, start: int, window: Tensor) -> None:
        stop = start + window.shape[0]
        scores = (window / self._diagonal[start:stop]).square_()
        heights = self._budget.heights
        columns = self.kept[start:stop].split(heights, dim=1)
        for part, kept, height in zip(scores.split(heights, 1), columns, heights, strict=True):
            count = self._removed_before(stop, height) - self._removed_before(start, height)
            kept.copy_(drop_smallest(part.reshape(1, -1), count=count).view(part.shape))

    def _removed_before(self, column: int, height: int) -> int:
        """Return the running total due at ``column``, rounded; at the end it is exact."""
        width = self._budget.width
        return (2 * self._budget.num_removed(height) * column + width) // (2 * width)


class _GroupSelection(_Selection):
    """Masks n of m columns at the start of each group, every row by itself."""

    def __init__(self, kept: Tensor, upper: Tensor, n: int, m: int) -> None:
        super().__init__(kept, m)
        self._diagonal = upper.diagonal().unsqueeze(1)
        self._n = n

    def begin(self, start: int, window: Tensor) -> None:
        stop = start + window.shape[0]
        scores = (window / self._diagonal[start:stop]).square_()
        self.kept[start:stop] = keep_n_largest(scores, n=self._n)

    @property
    def plans_blocks(self) -> bool:
        return self._unit in (2, 4, 8, 16, 32)

    def plan(self, start: int, rest: Tensor) -> BlockPlan:
        return BlockPlan(kept=self.kept, n_of_m=(self._n, self._unit))
