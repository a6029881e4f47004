"""A low-rank correction beside a thinned or rounded weight: what it left, as far as a rank goes.

Minimises ||X(W - S - BA)'||^2 over B [out, r] and A [r, in], S held. With H = X'X = R R' and
E = (W - S) R, the best BA R is E cut off after its r largest singular values (Eckart and Young,
1936): B A = U_r S_r V_r' R^-1. The Hessian metric is that of https://arxiv.org/abs/2410.21271
(EoRA).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingError, SolverError
from .admission import require_finite, require_weight, require_width
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
    """

    left: Tensor
    right: Tensor
    relative_error: float


def correct_low_rank(
    weight: Tensor, replacement: Tensor, gram: Gram, *, rank: int, damping: float = 0.01
) -> LowRank:
    """Return the correction of ``rank`` that leaves the least damped output error.

    ``replacement`` is S, [out_features, in_features]. Factors come in the weight's dtype, each with
    the square root of the singular values, so that neither is much larger than the other.

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
    normalized = normalize(gram, damping=damping)
    scale = normalized.scale
    lower, info = torch.linalg.cholesky_ex(normalized.matrix)
    if info.any():
        raise SolverError(
            f"Hessian of width {gram.width} over {gram.num_tokens} tokens is not positive definite "
            f"at damping {damping:g}; calibrate on more tokens or set a higher damping"
        )
    left_over = (weight.detach().to(scale.dtype) - replacement.detach().to(scale.dtype)) * scale
    vectors, values, rest = torch.linalg.svd(left_over @ lower, full_matrices=False)
    root = values[:rank].sqrt()
    left = (vectors[:, :rank] * root).to(weight.dtype)
    solved = torch.linalg.solve_triangular(lower, rest[:rank], upper=False, left=False)
    right = (root.unsqueeze(1) * solved / scale).to(weight.dtype)
    whole = replacement.detach().to(weight.dtype) + left @ right
    return LowRank(left, right, relative_output_error(weight, whole, gram))
