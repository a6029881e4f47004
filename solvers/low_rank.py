"""A low-rank correction BA, added to a pruned or quantised weight S, that reduces its output error.

Minimises ||X(W - S - BA)'||^2 over B [out_features, rank] and A [rank, in_features], S fixed. With
H = X'X = R R' and E = (W - S) R, the optimal B A R is the truncated singular value decomposition of
E (Eckart and Young, 1936): B A = U_r S_r V_r' R^-1. Weighting the error by the Hessian follows EoRA
(https://arxiv.org/abs/2410.21271).
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
    """B and A; the corrected weight is S + B A.

    Attributes:
        left: B, [out_features, rank], in the dtype of the weight.
        right: A, [rank, in_features], same dtype.
        relative_error: ||X(W - S - BA)'||^2 / ||XW'||^2 on the calibration inputs.
        damping: the damping used, as a fraction of the mean diagonal of H over live features.
        escalations: how many times the damping was multiplied by ten.
    """

    left: Tensor
    right: Tensor
    relative_error: float
    damping: float
    escalations: int


def correct_low_rank(
    weight: Tensor, replacement: Tensor, gram: Gram, *, rank: int, damping: float = 0.01
) -> LowRank:
    """Return the correction of the given ``rank`` with the least damped output error.

    The singular values are split evenly: each factor gets their square root, so that neither factor
    is much larger than the other.

    Args:
        weight: W, [out_features, in_features].
        replacement: S, same shape.
        gram: Gram matrix of the inputs.
        rank: 1 to min(out_features, in_features).
        damping: added to the Hessian's diagonal, as a fraction of its mean; raised as in
            `escalate`.

    Raises:
        SettingError: shapes do not fit, or ``rank`` is out of range.
        SolverError: a value is not finite, or the Hessian cannot be factorised.
    """
    require_weight(weight)
    require_finite(replacement, "replacement weight")
    require_width(weight, gram.matrix, "Gram matrix")
    if replacement.shape != weight.shape:
        raise SettingError(
            f"weight {tuple(weight.shape)} and replacement {tuple(replacement.shape)} do not fit: "
            "give two tensors of the same shape"
        )
    if not 1 <= rank <= min(weight.shape):
        raise SettingError(
            f"rank {rank} is out of range; give 1 to {min(weight.shape)}, the smaller dimension"
        )
    found = escalate(gram, damping, partial(_root, gram))
    lower, scale = found.value  # R of the normalised Hessian [in, in], D [in]
    # E = (W - S) R, with W and S in normalised units.
    residual = (weight.detach().to(scale.dtype) - replacement.detach().to(scale.dtype)) * scale
    vectors, values, right_vectors = torch.linalg.svd(residual @ lower, full_matrices=False)
    # Truncate, and split the singular values between the factors.
    root = values[:rank].sqrt()
    left = (vectors[:, :rank] * root).to(weight.dtype)  # B = U_r S_r^(1/2), [out, rank]
    # A = S_r^(1/2) V_r' R^-1 D^-1, [rank, in]
    solved = torch.linalg.solve_triangular(lower, right_vectors[:rank], upper=False, left=False)
    right = (root.unsqueeze(1) * solved / scale).to(weight.dtype)
    corrected = replacement.detach().to(weight.dtype) + left @ right
    error = relative_output_error(weight, corrected, gram)
    return LowRank(left, right, error, found.damping, found.escalations)


def _root(gram: Gram, damping: float) -> tuple[Tensor, Tensor] | None:
    """Return the Cholesky factor R of Hn and the scale D; None if Hn is not positive definite."""
    normalized = normalize(gram, damping=damping)
    lower, info = torch.linalg.cholesky_ex(normalized.matrix)
    return None if info.any() else (lower, normalized.scale)
