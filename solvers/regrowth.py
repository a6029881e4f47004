"""How many zeros of a weight that is pruned again may become weights again.

A solver that finds mask and values together chooses all zeros anew: one that was there is filled
where the output gains most by it, as RigL (https://arxiv.org/abs/1911.11134) grows where the
gradient is largest, here of the layer's own squared error, in closed form. RigL bounds how many
grow at a time, and so does this: of those that came back the ones that carry least are zero again,
as many of the weights that had gone instead stay, and least squares gives the mask its values. To
carry is Wanda's score, |V_ij| times the norm of the input.
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


def num_regrown(weight: Tensor, thinned: Tensor) -> int:
    """Return how many zeros of ``weight`` are none in ``thinned``."""
    return int(((weight == 0) & (thinned != 0)).sum())


def limit_regrowth(
    weight: Tensor,
    thinned: PrunedWeight,
    gram: Gram,
    *,
    limit: float,
    heights: Sequence[int],
    pull: Tensor | None = None,
    normalized: Normalized | None = None,
    damping: float = 0.01,
) -> PrunedWeight:
    """Return the same, or one in which at most ``limit`` of each layer's zeros are weights again.

    ``thinned`` is what a solver made of ``weight`` [out_features, in_features], the rows of layers
    of so many ``heights``. As many weights stay as the solver kept, or fewer where ``weight`` has
    no more to give; the other arguments are `refit`'s. Raises SettingError for a limit outside 0
    to 1.
    """
    if not 0 <= limit <= 1:
        raise SettingError(f"limit {limit} is out of range; give the share of zeros, from 0 to 1")
    require_width(weight, gram.matrix, "Gram matrix")
    rows = list(heights)
    carried, lost = (wanda_saliency(each, gram) for each in (thinned.weight, weight))
    layers = (each.split(rows) for each in (weight, thinned.weight, thinned.mask, carried, lost))
    kept = torch.cat([_limited(*layer, limit=limit) for layer in zip(*layers, strict=True)])
    if torch.equal(kept, thinned.mask):
        return thinned
    fitted = refit(
        weight, kept, gram, start=thinned.weight, pull=pull, normalized=normalized, damping=damping
    )
    errors = relative_output_errors(weight, fitted, gram, heights=rows)
    return replace(thinned, weight=fitted, mask=kept, relative_errors=errors)


def _limited(
    weight: Tensor, found: Tensor, kept: Tensor, carried: Tensor, lost: Tensor, *, limit: float
) -> Tensor:
    """Return the mask of one layer: the one found if that is within the limit."""
    zeros = weight == 0
    back = zeros & (found != 0)
    allowed = math.floor(limit * int(zeros.sum()))
    if int(back.sum()) <= allowed:
        return kept
    stays = (kept & ~zeros) | _highest(carried, back, allowed)
    spare = ~kept & ~zeros
    wanted = min(int(kept.sum()) - int(stays.sum()), int(spare.sum()))
    return stays | _highest(lost, spare, wanted)


def _highest(scores: Tensor, among: Tensor, count: int) -> Tensor:
    """Return a mask of the ``count`` highest scores there are ``among`` some."""
    ranked = scores.masked_fill(~among, -1.0).reshape(1, -1)
    return drop_smallest(ranked, count=ranked.numel() - count).view(scores.shape)
