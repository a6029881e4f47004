"""The Hessian scaled to a unit diagonal, and the decompositions of it that ADMM needs.

Legend: H = X'X. D = (H_jj + shift)^(1/2), a diagonal matrix. Hn = D^-1 (H + shift I) D^-1 has a
unit diagonal. Wn = W D is the weight in the same units, so |Wn_ij| is Wanda's score. shift =
damping times the mean diagonal of H over live features.

A dead feature (zero on every token) is not coupled to any other. Its D^2 is set to 1e-8 of the mean
diagonal, so its weights are pruned first, and those that are kept do not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_finite, working_dtype
from .damping import escalate, mean_live_diagonal, require_damping
from .gram import Gram

# Diagonal of a dead feature, relative to the mean diagonal of H over live features.
_DEAD = 1e-8


@dataclass(frozen=True, eq=False)
class Normalized:
    """Hn and D of one Gram matrix.

    Attributes:
        matrix: Hn, [in_features, in_features], symmetric, diagonal 1.
        scale: D, [in_features], positive.
        damping: the damping used, as a fraction of the mean diagonal of H over live features.
    """

    matrix: Tensor
    scale: Tensor
    damping: float


@dataclass(frozen=True, eq=False)
class Resolvent:
    """R = penalty (Hn + penalty I)^-1, the quadratic part of every ADMM step.

    It is stored in units in which |weight| is the optimal brain surgeon's score under Hn + penalty
    I. In these units a weight is W D Q, with Q = diag(R_jj^(-1/2)).

    Attributes:
        inverse: Q^-1 R Q, [in_features, in_features]; a row of weights is multiplied by it from the
            right.
        scale: D Q, [in_features], positive.
        normalized: Hn and D.
        penalty: ADMM's rho.
        escalations: how many times the damping was multiplied by ten.
    """

    inverse: Tensor
    scale: Tensor
    normalized: Normalized
    penalty: float
    escalations: int


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The eigendecomposition Hn = Q L Q'. With it, (Hn + rho I)^-1 is cheap for every rho.

    Attributes:
        values: L, [in_features], ascending, at least 0.
        vectors: Q, [in_features, in_features], orthonormal columns.
        normalized: Hn and D.
    """

    values: Tensor
    vectors: Tensor
    normalized: Normalized


def normalize(gram: Gram, *, damping: float) -> Normalized:
    """Return Hn and D.

    Raises:
        SettingError: ``damping`` is negative or not finite.
        SolverError: the Gram matrix is not finite.
    """
    require_damping(damping)
    require_finite(gram.matrix, "Gram matrix")
    matrix = gram.matrix.to(working_dtype(gram.matrix), copy=True)
    mean = mean_live_diagonal(gram)
    diagonal = matrix.diagonal()  # a view: what follows changes H in place
    diagonal += damping * mean
    diagonal[gram.dead] = _DEAD * mean or 1.0  # 1 if no feature is live
    scale = diagonal.sqrt()  # D, [in]
    matrix /= scale
    matrix /= scale.unsqueeze(1)  # Hn, [in, in]
    return Normalized(matrix, scale, damping)


def resolve(gram: Gram, *, damping: float = 0.01, penalty: float = 0.7) -> Resolvent:
    """Return R = penalty (Hn + penalty I)^-1 in the units described in `Resolvent`.

    If Hn + penalty I is not positive definite in floating point (only possible if ``gram`` is not a
    true Gram matrix), the damping is raised as in `escalate`.

    Raises:
        SettingError: ``damping`` or ``penalty`` is out of range.
        SolverError: the Gram matrix is not finite, or not positive definite at the highest damping.
    """
    if not 0 < penalty < float("inf"):
        raise SettingError(f"penalty {penalty} is out of range; give a finite number above 0")
    found = escalate(gram, damping, partial(_resolvent, gram, penalty))
    inverse, normalized = found.value  # R, [in, in]
    root = inverse.diagonal().rsqrt()  # Q, [in]
    inverse *= root
    inverse /= root.unsqueeze(1)  # Q^-1 R Q
    return Resolvent(inverse, normalized.scale * root, normalized, penalty, found.escalations)


def _resolvent(gram: Gram, penalty: float, damping: float) -> tuple[Tensor, Normalized] | None:
    """Return R and Hn, or None if Hn + penalty I is not positive definite."""
    normalized = normalize(gram, damping=damping)
    shifted = normalized.matrix.clone()
    shifted.diagonal().add_(penalty)
    lower, info = torch.linalg.cholesky_ex(shifted)
    if info.any():
        return None
    return torch.cholesky_inverse(lower).mul_(penalty), normalized


def decompose(gram: Gram, *, damping: float = 0.01) -> Spectrum:
    """Return the eigenvalues and eigenvectors of Hn.

    Rounding can make eigenvalues of a rank-deficient matrix slightly negative; these are set to 0.
    Raises the same errors as `normalize`.
    """
    normalized = normalize(gram, damping=damping)
    values, vectors = torch.linalg.eigh(normalized.matrix)
    return Spectrum(values.clamp_(min=0.0), vectors, normalized)
