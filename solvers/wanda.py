"""Wanda: remove the weights whose product with their input's norm is smallest, row by row.

https://arxiv.org/abs/2306.11695, section 3. Comparing within each output row, not across the layer,
is the paper's finding. No remaining weight is changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .factor import Factor
from .gram import Gram
from .masks import UNSTRUCTURED, Pattern, pattern_mask
from .output_error import relative_output_errors
from .results import PrunedWeight
from .saliency import wanda_saliency


def prune_wanda(
    weight: Tensor,
    gram: Gram,
    *,
    sparsity: float | None = None,
    pattern: Pattern = UNSTRUCTURED,
    heights: Sequence[int] | None = None,
    factor: Factor | None = None,
    matching: float = 0.0,
) -> PrunedWeight:
    """Remove the smallest |W_ij| ||X_j|| of every row, or of every m columns.

    Each row loses ``round(sparsity * in_features)`` weights; ``factor``, ``heights`` and
    ``matching`` are not used, rows being on their own and no value being changed. Raises
    SettingError for arguments that do not fit, SolverError for values that are not finite.
    """
    scores = wanda_saliency(weight, gram)
    mask = pattern_mask(scores, sparsity=sparsity, pattern=pattern, scope="row")
    thinned = weight.detach().masked_fill(~mask, 0.0)
    return PrunedWeight(
        thinned,
        mask,
        relative_output_errors(weight, thinned, gram, heights=heights or (weight.shape[0],)),
    )
