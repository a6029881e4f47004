"""ALPS: ADMM run to convergence, the penalty rising as the mask settles. The best mask, slowest.

Minimises ||X(W - V)'||^2 over V with the zeros asked for; https://arxiv.org/abs/2406.07831,
section 3. In the units of `normalized`, with Hn = Q L Q':

    B = (Wn Hn - V + rho Z) Q (L + rho)^-1 Q';  Z = keep(B + V / rho);  V += rho (B - Z)

Every third step the penalty rises by how much of the support changed since the last look; in the
end `least_squares` gives the support the best values it can have, which matters where the steps ran
out before Z and B met.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .budget import Budget
from .checks import require_finite, require_weight, require_width
from .gram import Gram
from .least_squares import refit
from .masks import UNSTRUCTURED, Pattern
from .normalized import Spectrum, decompose
from .output_error import relative_output_errors
from .results import PrunedWeight
from .target import pull_of

_FIRST_PENALTY = 0.1
_LOOK_EVERY = 3
# Share of the support that changed, and what the penalty is then multiplied by.
_RISES = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
_SETTLED = 3e-4
_FEWEST_STEPS = 30
_MOST_STEPS = 300
_POLISH = 10


def prune_alps(
    weight: Tensor,
    gram: Gram,
    *,
    sparsity: float | None = None,
    pattern: Pattern = UNSTRUCTURED,
    heights: Sequence[int] | None = None,
    factor: Spectrum | None = None,
    matching: float = 0.0,
    damping: float = 0.01,
) -> PrunedWeight:
    """Prune [out_features, in_features] with ALPS, to the count or to n:m.

    ``factor`` reuses a spectrum of the same Gram, and its damping then holds; ``matching`` is the
    share of `pull_of`. Raises SettingError for arguments that do not fit, SolverError for values
    that are not finite.
    """
    require_weight(weight)
    require_width(weight, gram.matrix, "Gram matrix")
    budget = Budget.of(weight, sparsity=sparsity, pattern=pattern, heights=heights)
    factor = factor or decompose(gram, damping=damping)
    require_width(weight, factor.vectors, "spectrum")
    scale = factor.normalized.scale
    pull = pull_of(weight, gram, share=matching)
    turned = None if pull is None else (pull.to(scale.dtype) / scale) @ factor.vectors
    sparse, kept = _iterate(weight.detach().to(scale.dtype) * scale, turned, factor, budget)
    start = sparse.div_(scale)
    require_finite(start, "ADMM's last iterate")
    thinned = refit(
        weight, kept, gram, start=start, pull=pull, steps=_POLISH, normalized=factor.normalized
    )
    error = relative_output_errors(weight, thinned, gram, heights=budget.heights)
    return PrunedWeight(thinned, kept, error, factor.normalized.damping)


def _iterate(
    scaled: Tensor, pull: Tensor | None, factor: Spectrum, budget: Budget
) -> tuple[Tensor, Tensor]:
    """Return Z [out_features, in_features] and its exact mask; ``pull`` joins Wn Hn Q."""
    rotation, values = factor.vectors, factor.values
    aim = (scaled @ rotation).mul_(values)
    if pull is not None:
        aim += pull
    kept = settled = budget.keep(scaled.abs())
    sparse, dual, penalty = scaled * kept, torch.zeros_like(scaled), _FIRST_PENALTY
    for step in range(1, _MOST_STEPS + 1):
        turned = torch.sub(penalty * sparse, dual) @ rotation
        free = turned.add_(aim).div_(values + penalty) @ rotation.T
        sums = free + dual / penalty
        kept = budget.keep_roughly(sums.abs())
        sparse = sums * kept
        dual = (sums - sparse).mul_(penalty)
        if step % _LOOK_EVERY == 0:
            changed = _share_changed(settled, kept)
            settled = kept
            if step >= _FEWEST_STEPS and changed < _SETTLED:
                break
            penalty *= next((by for above, by in _RISES if changed > above), 1.0)
    kept = budget.keep(sums.abs())
    return sums * kept, kept


def _share_changed(before: Tensor, after: Tensor) -> float:
    """Return the weights that entered the support, as a share of it."""
    return float((after & ~before).sum()) / max(float(before.sum()), 1.0)
