"""Magnitude pruning: remove the smallest weights, looking at no data. The baseline to beat."""

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
    """Remove the smallest |W| of the whole layer, or of every m columns.

    ``gram`` serves only to measure the damage; ``factor`` and ``matching`` are not used. Raises
    SettingError for arguments that do not fit, SolverError for values that are not finite.
    """
    require_width(weight, gram.matrix, "Gram matrix")
    saliency = magnitude_saliency(weight)
    budget = Budget.of(weight, sparsity=sparsity, pattern=pattern, heights=heights)
    mask = budget.keep(saliency)
    thinned = weight.detach().masked_fill(~mask, 0.0)
    return PrunedWeight(
        thinned, mask, relative_output_errors(weight, thinned, gram, heights=budget.heights)
    )
