"""A limit on how many zeros may regrow when an already pruned weight is pruned again.

Methods that choose mask and values together choose all zeros anew. A zero of the input may become a
weight again, as in RigL (https://arxiv.org/abs/1911.11134), which regrows where the gradient is
largest; here the criterion is the layer's own squared error, in closed form. RigL bounds how many
weights regrow at a time, and so does this module: of the regrown weights, those with the lowest
Wanda scores |V_ij| ||X_j|| become zero again; as many of the newly removed weights are kept
instead; and least squares recomputes the values on the new mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_width
from .gram import Gram
from .least_squares import refit
from .masks import drop_smallest
from .normalized import Normalized
from .output_error import relative_output_errors
from .results import PrunedWeight
from .saliency import wanda_saliency


def num_regrown(weight: Tensor, pruned: Tensor) -> int:
    """Return how many zeros of ``weight`` are non-zero in ``pruned``."""
    return int(((weight == 0) & (pruned != 0)).sum())


def limit_regrowth(
    weight: Tensor,
    pruned: PrunedWeight,
    gram: Gram,
    *,
    limit: float,
    heights: Sequence[int],
    shift: Tensor | None = None,
    normalized: Normalized | None = None,
    damping: float = 0.01,
) -> PrunedWeight:
    """Return a pruned weight in which at most ``limit`` of each layer's zeros have regrown.

    ``pruned`` itself is returned if it is within the limit. Otherwise the result keeps as many
    weights as ``pruned``, or fewer if ``weight`` has too few non-zero ones.

    Args:
        weight: the input of the solver, [out_features, in_features], with zeros in it.
        pruned: what the solver returned for ``weight``.
        gram: Gram matrix of the inputs.
        limit: maximum fraction of the zeros that may regrow, 0 to 1.
        heights: rows of each stacked layer.
        shift: as in `refit`.
        normalized: as in `refit`.
        damping: as in `refit`.

    Raises:
        SettingError: ``limit`` is out of range, or shapes do not fit.
        SolverError: a value is not finite.
    """
    if not 0 <= limit <= 1:
        raise SettingError(
            f"limit {limit} is out of range; give the fraction of zeros, from 0 to 1"
        )
    require_width(weight, gram.matrix, "Gram matrix")
    rows = list(heights)
    new_scores, old_scores = (wanda_saliency(each, gram) for each in (pruned.weight, weight))
    stacked = (weight, pruned.weight, pruned.mask, new_scores, old_scores)
    layers = (each.split(rows) for each in stacked)
    kept = torch.cat([_limited(*layer, limit=limit) for layer in zip(*layers, strict=True)])
    if torch.equal(kept, pruned.mask):
        return pruned
    fitted = refit(
        weight, kept, gram, start=pruned.weight, shift=shift, normalized=normalized, damping=damping
    )
    errors = relative_output_errors(weight, fitted, gram, heights=rows)
    return replace(pruned, weight=fitted, mask=kept, relative_errors=errors)


def _limited(
    weight: Tensor,
    pruned: Tensor,
    kept: Tensor,
    new_scores: Tensor,
    old_scores: Tensor,
    *,
    limit: float,
) -> Tensor:
    """Return the mask of one layer [rows, in_features], within the limit."""
    zeros = weight == 0
    regrown = zeros & (pruned != 0)
    allowed = math.floor(limit * int(zeros.sum()))
    if int(regrown.sum()) <= allowed:
        return kept
    # Keep the surviving weights and the best `allowed` of the regrown ones.
    mask = (kept & ~zeros) | _highest(new_scores, regrown, allowed)
    # Fill up with the best of the newly removed weights.
    removed = ~kept & ~zeros
    missing = min(int(kept.sum()) - int(mask.sum()), int(removed.sum()))
    return mask | _highest(old_scores, removed, missing)


def _highest(scores: Tensor, among: Tensor, count: int) -> Tensor:
    """Return a mask of the ``count`` highest scores where ``among`` is True."""
    ranked = scores.masked_fill(~among, -1.0).reshape(1, -1)
    return drop_smallest(ranked, count=ranked.numel() - count).view(scores.shape)
