"""SparseGPT: prune column by column, and let the columns still to come make up for each loss.

Minimises ||X(W - V)'||^2 over masked V, greedily. https://arxiv.org/abs/2301.00774, algorithm 1: a
block of 128 columns is masked at its start by W_ij^2 / U_jj^2, ranked over all rows at once; n:m
groups are masked at their own start. Weights on dead features are zeroed first, as published.

Where we differ from the published code: the count is exact (a block's share is rounded so that the
layer's total comes out right), and n:m groups never straddle a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .admission import require_finite, require_mask, require_weight, require_width
from .column_loop import ColumnRule, run_column_loop
from .factor import Factor, factorize
from .gram import Gram
from .masks import (
    UNSTRUCTURED,
    Pattern,
    drop_smallest,
    keep_n_largest,
    require_groups_of,
    require_sparsity,
)
from .output_error import relative_output_error
from .results import Pruned
from .saliency import require_natural_order

BLOCK_SIZE = 128


def prune_sparsegpt(
    weight: Tensor,
    gram: Gram,
    *,
    sparsity: float | None = None,
    pattern: Pattern = UNSTRUCTURED,
    factor: Factor | None = None,
    damping: float = 0.01,
) -> Pruned:
    """Prune with SparseGPT, removing ``round(sparsity * n)`` weights of the layer, or to n:m.

    ``factor`` reuses a factorisation of the same Gram, and its damping then holds instead of
    ``damping``. Raises SettingError for arguments that do not fit, SolverError for values that are
    not finite or a Hessian that will not factorise.
    """
    require_weight(weight)
    require_width(weight, gram.matrix, "Gram matrix")
    fraction = require_sparsity(sparsity, pattern)
    if pattern.n_of_m is not None:
        require_groups_of(pattern.n_of_m[1], weight.shape[1])
    factor = factor or factorize(gram, damping=damping)
    kept = torch.empty_like(weight.T, dtype=torch.bool, memory_format=torch.contiguous_format)
    rule: _Selection
    if pattern.n_of_m is None:
        rule = _BlockSelection(kept, factor.upper, round(fraction * weight.numel()))
    else:
        rule = _GroupSelection(kept, factor.upper, *pattern.n_of_m)
    thinned = _run(weight, factor, rule)
    return Pruned(
        thinned,
        kept.T.contiguous(),
        relative_output_error(weight, thinned, gram),
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


class _BlockSelection(_Selection):
    """Masks a block at a time by OBS score, all rows together."""

    def __init__(self, kept: Tensor, upper: Tensor, num_removed: int) -> None:
        super().__init__(kept, BLOCK_SIZE)
        self._diagonal = upper.diagonal().unsqueeze(1)
        self._num_removed = num_removed

    def begin(self, start: int, window: Tensor) -> None:
        stop = start + window.shape[0]
        scores = (window / self._diagonal[start:stop]).square_()
        count = self._removed_before(stop) - self._removed_before(start)
        self.kept[start:stop] = drop_smallest(scores.view(1, -1), count=count).view(scores.shape)

    def _removed_before(self, column: int) -> int:
        """Return the running total due at ``column``, rounded; at the end it is exact."""
        width = self.kept.shape[0]
        return (2 * self._num_removed * column + width) // (2 * width)


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
