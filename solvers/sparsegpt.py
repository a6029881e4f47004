"""SparseGPT: prune column by column and let the later columns compensate for each error.

Minimises ||X(W - V)'||^2 over pruned V, greedily. https://arxiv.org/abs/2301.00774, algorithm 1. At
the start of each block of 128 columns the mask of the block is chosen by the scores W_ij^2 /
U_jj^2, compared over all rows; an n:m group is masked at its own start. Weights of dead features
are set to zero first, as in the published code.

Differences from the published code: the number of removed weights is exact (each block's part is
rounded so that the total is right), and n:m groups never straddle two blocks.
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
from .target import target_weight


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
    """Prune with SparseGPT: ``round(sparsity * n)`` weights of each layer, or n:m.

    Args:
        weight: [out_features, in_features], any floating dtype.
        gram: Gram matrix of the inputs.
        sparsity: fraction of weights to remove, for the unstructured pattern.
        pattern: unstructured or n:m.
        heights: rows of each stacked layer; each layer loses its own fraction.
        factor: a factorisation of the same Gram matrix to reuse; its damping replaces ``damping``.
        matching: fraction of the upstream error to correct, see `target_weight`.
        damping: added to the Hessian's diagonal, as a fraction of its mean.

    Raises:
        SettingError: an argument is out of range or has the wrong shape.
        SolverError: a value is not finite, or the Hessian cannot be factorised.
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
    pruned = _run(target_weight(weight, gram, factor, matching=matching), factor, rule)
    return PrunedWeight(
        pruned,
        kept.T.contiguous(),
        relative_output_errors(weight, pruned, gram, heights=budget.heights),
        factor.damping,
        factor.escalations,
    )


def sparsegpt_update(weight: Tensor, factor: Factor, mask: Tensor) -> Tensor:
    """Apply a given ``mask`` (True = kept) with the compensation of SparseGPT.

    The mask may come from any method. Returns values in the dtype of ``weight``, +0.0 where the
    mask is False. Raises the same errors as `prune_sparsegpt`.
    """
    require_weight(weight)
    require_mask(weight, mask)
    return _run(weight, factor, _Selection(mask.T.contiguous(), weight.shape[1]))


def _run(weight: Tensor, factor: Factor, rule: _Selection) -> Tensor:
    """Run the column loop on a transposed copy; return the pruned weight in its original dtype."""
    require_width(weight, factor.upper, "factor")
    require_natural_order(factor)
    columns = weight.detach().T.to(  # [in, out]
        factor.upper.dtype, copy=True, memory_format=torch.contiguous_format
    )
    columns[factor.dead] = 0.0
    run_column_loop(columns, factor.upper, rule)
    pruned = columns.masked_fill_(~rule.kept, 0.0).T.to(weight.dtype).contiguous()
    require_finite(pruned, f"pruned weight in {weight.dtype}")
    return pruned


class _Selection(ColumnRule):
    """Applies a fixed mask ``kept`` [in_features, out_features]."""

    def __init__(self, kept: Tensor, unit: int) -> None:
        self.kept = kept
        self._unit = unit

    @property
    def unit(self) -> int:
        return self._unit

    def begin(self, start: int, window: Tensor) -> None:
        """Nothing to choose: the mask is given."""

    def settle(self, index: int, column: Tensor) -> Tensor:
        return column * self.kept[index]

    @property
    def plans_blocks(self) -> bool:
        return True

    def plan(self, start: int, rest: Tensor) -> BlockPlan:
        self.begin(start, rest[: self._unit])
        return BlockPlan(kept=self.kept)


class _BlockSelection(_Selection):
    """Chooses the mask of a block from the OBS scores of all rows of a layer."""

    def __init__(self, kept: Tensor, upper: Tensor, budget: Budget) -> None:
        super().__init__(kept, BLOCK_SIZE)
        self._diagonal = upper.diagonal().unsqueeze(1)
        self._budget = budget

    def begin(self, start: int, window: Tensor) -> None:
        stop = start + window.shape[0]
        scores = (window / self._diagonal[start:stop]).square_()  # W_ij^2 / U_jj^2, [columns, out]
        heights = self._budget.heights
        columns = self.kept[start:stop].split(heights, dim=1)
        for part, kept, height in zip(scores.split(heights, 1), columns, heights, strict=True):
            count = self._removed_before(stop, height) - self._removed_before(start, height)
            kept.copy_(drop_smallest(part.reshape(1, -1), count=count).view(part.shape))

    def _removed_before(self, column: int, height: int) -> int:
        """Return how many weights must be removed before ``column``; exact at the last one."""
        width = self._budget.width
        return (2 * self._budget.num_removed(height) * column + width) // (2 * width)


class _GroupSelection(_Selection):
    """Chooses n of m columns at the start of each group, for every row separately."""

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
