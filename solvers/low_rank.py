"""A low-rank correction beside a thinned or rounded weight: what it left, as far as a rank goes.

Minimises ||X(W - S - BA)'||^2 over B [out, r] and A [r, in], S held. With H = X'X = R R' and
E = (W - S) R, the best BA R is E cut off after its r largest singular values (Eckart and Young,
1936): B A = U_r S_r V_r' R^-1. The Hessian metric is that of https://arxiv.org/abs/2410.21271
(EoRA).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_finite, require_weight, require_width
from .damping import escalate
from .gram import Gram
from .normalized import normalize
from .output_error import relative_output_error


@dataclass(frozen=True, eq=False)
class LowRank:
    """B and A, to be added to a replaced weight as B A.

    Attributes:
        left: B, [out_features, rank].
        right: A, [rank, in_features].
        relative_error: ||X(W - S - BA)'||^2 / ||XW'||^2 on the calibration inputs.
        damping: the damping used, relative to the mean of H's diagonal over live features.
        escalations: how often the damping had to be raised tenfold.
    """

    left: Tensor
    right: Tensor
    relative_error: float
    damping: float
    escalations: int


def correct_low_rank(
    weight: Tensor, replacement: Tensor, gram: Gram, *, rank: int, damping: float = 0.01
) -> LowRank:
    """Return the correction of ``rank`` that leaves the least damped output error.

    ``replacement`` is S, [out_features, in_features]. Factors come in the weight's dtype, each with
    the square root of the singular values, so that neither is much larger than the other.

    The damping is raised as `escalate` does.

    Raises SettingError for shapes that do not fit or a rank outside 1 to the smaller side,
    SolverError for values that are not finite.
    """
    require_weight(weight)
    require_finite(replacement, "replacement weight")
    require_width(weight, gram.matrix, "Gram matrix")
    if replacement.shape != weight.shape:
        raise SettingError(
            f"weight {tuple(weight.shape)} and replacement {tuple(replacement.shape)} do not fit"
        )
    if not 1 <= rank <= min(weight.shape):
        raise SettingError(
            f"rank {rank} is out of range; give 1 to {min(weight.shape)}, the smaller side"
        )
    found = escalate(gram, damping, partial(_root, gram))
    lower, scale = found.made
    left_over = (weight.detach().to(scale.dtype) - replacement.detach().to(scale.dtype)) * scale
    vectors, values, rest = torch.linalg.svd(left_over @ lower, full_matrices=False)
    root = values[:rank].sqrt()
    left = (vectors[:, :rank] * root).to(weight.dtype)
    solved = torch.linalg.solve_triangular(lower, rest[:rank], upper=False, left=False)
    right = (root.unsqueeze(1) * solved / scale).to(weight.dtype)
    whole = replacement.detach().to(weight.dtype) + left @ right
    error = relative_output_error(weight, whole, gram)
    return LowRank(left, right, error, found.damping, found.escalations)


def _root(gram: Gram, damping: float) -> tuple[Tensor, Tensor] | None:
    """Return R of the normalised Hessian, and what normalised it; None where it has none."""
    normalized = normalize(gram, damping=damping)
    lower, info = torch.linalg.cholesky_ex(normalized.matrix)
    return None if info.any() else (lower, normalized.scale)
