"""ALPS: ADMM run to convergence with a rising penalty. The most accurate and slowest pruner.

Minimises ||X(W - V)'||^2 over V with the given sparsity; https://arxiv.org/abs/2406.07831, section
3. In the normalised units of `normalized`, with Hn = Q L Q', one step is

    B = (Wn Hn - V + rho Z) Q (L + rho)^-1 Q';  Z = keep(B + V / rho);  V += rho (B - Z)

where B is unconstrained, Z sparse and V the dual variable. Every third step the penalty rho rises,
by more the more of the support has changed. At the end `least_squares` refits the values on the
final mask, because the iteration may stop before Z and B have met.
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
from .target import target_shift

_FIRST_PENALTY = 0.1
_CHECK_EVERY = 3
# Fraction of the support that changed since the last check, and the factor the penalty rises by.
_PENALTY_RISES = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
# Converged when a smaller fraction than this has changed.
_CONVERGED = 3e-4
_MIN_STEPS = 30
_MAX_STEPS = 300
_REFIT_STEPS = 10


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
    """Prune with ALPS: ``round(sparsity * n)`` weights of each layer, or n:m.

    Args:
        weight: [out_features, in_features], any floating dtype.
        gram: Gram matrix of the inputs.
        sparsity: fraction of weights to remove, for the unstructured pattern.
        pattern: unstructured or n:m.
        heights: rows of each stacked layer; each layer loses its own fraction.
        factor: a spectrum of the same Gram matrix to reuse; its damping replaces ``damping``.
        matching: fraction of the upstream error to correct, see `target_shift`.
        damping: added to the Hessian's diagonal, as a fraction of its mean.

    Raises:
        SettingError: an argument is out of range or has the wrong shape.
        SolverError: a value is not finite.
    """
    require_weight(weight)
    require_width(weight, gram.matrix, "Gram matrix")
    budget = Budget.of(weight, sparsity=sparsity, pattern=pattern, heights=heights)
    factor = factor or decompose(gram, damping=damping)
    require_width(weight, factor.vectors, "spectrum")
    scale = factor.normalized.scale
    shift = target_shift(weight, gram, matching=matching)
    rotated = None if shift is None else (shift.to(scale.dtype) / scale) @ factor.vectors
    sparse, kept = _iterate(weight.detach().to(scale.dtype) * scale, rotated, factor, budget)
    start = sparse.div_(scale)
    require_finite(start, "ADMM's last iterate")
    pruned = refit(
        weight,
        kept,
        gram,
        start=start,
        shift=shift,
        steps=_REFIT_STEPS,
        normalized=factor.normalized,
    )
    error = relative_output_errors(weight, pruned, gram, heights=budget.heights)
    return PrunedWeight(pruned, kept, error, factor.normalized.damping)


def _iterate(
    scaled: Tensor, shift: Tensor | None, factor: Spectrum, budget: Budget
) -> tuple[Tensor, Tensor]:
    """Return Z [out_features, in_features] after the last step, and its mask, exact to the count.

    ``scaled`` is Wn; ``shift`` is the target's shift W(C - H) D^-1 Q.
    """
    rotation, values = factor.vectors, factor.values  # Q [in, in], L [in]
    target = (scaled @ rotation).mul_(values)  # Wn Hn Q = Wn Q L, [out, in]
    if shift is not None:
        target += shift
    kept = checked = budget.keep(scaled.abs())  # start from Wanda's mask
    sparse, dual, penalty = scaled * kept, torch.zeros_like(scaled), _FIRST_PENALTY
    for step in range(1, _MAX_STEPS + 1):
        # Unconstrained part: B = (Wn Hn - V + rho Z) Q (L + rho)^-1 Q'
        rotated = torch.sub(penalty * sparse, dual) @ rotation
        free = rotated.add_(target).div_(values + penalty) @ rotation.T
        # Sparse part: Z = keep(B + V / rho)
        sums = free + dual / penalty
        kept = budget.keep_roughly(sums.abs())
        sparse = sums * kept
        # Dual variable: V += rho (B - Z)
        dual = (sums - sparse).mul_(penalty)
        # Raise the penalty while the mask still changes; stop once it does not.
        if step % _CHECK_EVERY == 0:
            changed = _fraction_changed(checked, kept)
            checked = kept
            if step >= _MIN_STEPS and changed < _CONVERGED:
                break
            penalty *= next((rise for above, rise in _PENALTY_RISES if changed > above), 1.0)
    kept = budget.keep(sums.abs())
    return sums * kept, kept


def _fraction_changed(before: Tensor, after: Tensor) -> float:
    """Return how many weights entered the support, as a fraction of its size."""
    return float((after & ~before).sum()) / max(float(before.sum()), 1.0)
