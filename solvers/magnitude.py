"""Magnitude pruning: remove the weights of smallest absolute value. Needs no calibration data."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .budget import Budget
from .checks import require_width
from .factor import Factor
from .gram import Gram
from .masks import UNSTRUCTURED, Pattern
from .output_error import relative_output_errors
from .results import PrunedWeight
from .saliency import magnitude_saliency


def prune_magnitude(
    weight: Tensor,
    gram: Gram,
    *,
    sparsity: float | None = None,
    pattern: Pattern = UNSTRUCTURED,
    heights: Sequence[int] | None = None,
    factor: Factor | None = None,
    matching: float = 0.0,
) -> PrunedWeight:
    """Remove the smallest |W| of each layer, or of every m consecutive columns.

    Args:
        weight: [out_features, in_features], any floating dtype.
        gram: Gram matrix of the inputs, used only to measure the error.
        sparsity: fraction of weights to remove, for the unstructured pattern.
        pattern: unstructured or n:m.
        heights: rows of each stacked layer; None for a single layer.
        factor: not used.
        matching: not used.

    Raises:
        SettingError: an argument is out of range or has the wrong shape.
        SolverError: a value is not finite.
    """
    require_width(weight, gram.matrix, "Gram matrix")
    saliency = magnitude_saliency(weight)
    budget = Budget.of(weight, sparsity=sparsity, pattern=pattern, heights=heights)
    mask = budget.keep(saliency)
    pruned = weight.detach().masked_fill(~mask, 0.0)
    return PrunedWeight(
        pruned, mask, relative_output_errors(weight, pruned, gram, heights=budget.heights)
    )
