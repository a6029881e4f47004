"""Magnitude pruning: remove the smallest weights, looking at no data. The baseline to beat."""

from __future__ import annotations

from torch import Tensor

from .admission import require_width
from .factor import Factor
from .gram import Gram
from .masks import UNSTRUCTURED, Pattern, pattern_mask
from .output_error import relative_output_error
from .results import Pruned
from .saliency import magnitude_saliency


def prune_magnitude(
    weight: Tensor,
    gram: Gram,
    *,
    sparsity: float | None = None,
    pattern: Pattern = UNSTRUCTURED,
    factor: Factor | None = None,
) -> Pruned:
    """Remove the smallest |W| of the whole layer, or of every m columns.

    ``gram`` serves only to measure the damage; ``factor`` is not used. Raises SettingError for
    arguments that do not fit, SolverError for values that are not finite.
    """
    require_width(weight, gram.matrix, "Gram matrix")
    mask = pattern_mask(magnitude_saliency(weight), sparsity=sparsity, pattern=pattern)
    thinned = weight.detach().masked_fill(~mask, 0.0)
    return Pruned(thinned, mask, relative_output_error(weight, thinned, gram))
