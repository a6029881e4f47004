"""Wanda: remove the weights with the smallest |W_ij| ||X_j||, row by row.

https://arxiv.org/abs/2306.11695, section 3. Scores are compared within an output row, not across
the layer, as the paper recommends. The remaining weights do not change.
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
    """Remove the smallest |W_ij| ||X_j|| of every row, or of every m consecutive columns.

    Args:
        weight: [out_features, in_features], any floating dtype.
        gram: Gram matrix of the inputs.
        sparsity: fraction to remove; each row loses ``round(sparsity * in_features)`` weights.
        pattern: unstructured or n:m.
        heights: rows of each stacked layer, only to report their errors separately.
        factor: not used.
        matching: not used, since no value changes.

    Raises:
        SettingError: an argument is out of range or has the wrong shape.
        SolverError: a value is not finite.
    """
    scores = wanda_saliency(weight, gram)
    mask = pattern_mask(scores, sparsity=sparsity, pattern=pattern, scope="row")
    pruned = weight.detach().masked_fill(~mask, 0.0)
    return PrunedWeight(
        pruned,
        mask,
        relative_output_errors(weight, pruned, gram, heights=heights or (weight.shape[0],)),
    )
