"""The Hessian in units where every input feature has energy one, and what ADMM inverts of it.

Legend: H = X'X; D = (H_jj + shift)^(1/2); Hn = D^-1 (H + shift I) D^-1, of unit diagonal; a weight
there is Wn = W D, so that |Wn_ij| is Wanda's score. shift = damping times the mean of H's diagonal
over live features. A feature never seen non-zero is coupled to nothing and is given a
ten-thousandth of the root mean energy: its weights are the first to go, and those that stay are
left as they are.
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

_DEAD = 1e-8


@dataclass(frozen=True, eq=False)
class Normalized:
    """Hn and D of one Gram.

    Attributes:
        matrix: Hn, [in_features, in_features], symmetric, diagonal 1.
        scale: D, [in_features], positive.
        damping: relative to the mean of H's diagonal over live features.
    """

    matrix: Tensor
    scale: Tensor
    damping: float


@dataclass(frozen=True, eq=False)
class Resolvent:
    """R = (Hn + penalty I)^-1 times the penalty: the quadratic half of every ADMM step.

    It is in units of its own, where the size of a weight is what the optimal brain surgeon charges
    for it under Hn + penalty I: W D Q, with Q the diagonal of the roots of 1 / R_jj.

    Attributes:
        inverse: Q^-1 R Q, [in_features, in_features]; rows of weights are multiplied by it.
        scale: D Q, [in_features], positive.
        normalized: Hn and D.
        penalty: ADMM's rho.
        escalations: how often the damping had to be raised tenfold.
    """

    inverse: Tensor
    scale: Tensor
    normalized: Normalized
    penalty: float
    escalations: int


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Hn = Q L Q', after which any penalty costs nothing.

    Attributes:
        values: L, [in_features], ascending, at least 0.
        vectors: Q, [in_features, in_features], columns orthonormal.
        normalized: Hn and D.
    """

    values: Tensor
    vectors: Tensor
    normalized: Normalized


def normalize(gram: Gram, *, damping: float) -> Normalized:
    """Return Hn and D; SettingError for a negative damping, SolverError if H is not finite."""
    require_damping(damping)
    require_finite(gram.matrix, "Gram matrix")
    matrix = gram.matrix.to(working_dtype(gram.matrix), copy=True)
    mean = mean_live_diagonal(gram)
    diagonal = matrix.diagonal()
    diagonal += damping * mean
    diagonal[gram.dead] = _DEAD * mean or 1.0
    scale = diagonal.sqrt()
    matrix /= scale
    matrix /= scale.unsqueeze(1)
    return Normalized(matrix, scale, damping)


def resolve(gram: Gram, *, damping: float = 0.01, penalty: float = 0.7) -> Resolvent:
    """Return penalty (Hn + penalty I)^-1, in its own units.

    Where Hn + penalty I is not positive definite in float arithmetic, which takes a matrix that is
    no Gram at all, the damping is raised as `escalate` does.

    Raises SettingError for settings out of range; SolverError if H is not finite or never
    factorises.
    """
    if not 0 < penalty < float("inf"):
        raise SettingError(f"penalty {penalty} is out of range; give a finite number above 0")
    found = escalate(gram, damping, partial(_resolved, gram, penalty))
    inverse, normalized = found.made
    root = inverse.diagonal().rsqrt()
    inverse *= root
    inverse /= root.unsqueeze(1)
    return Resolvent(inverse, normalized.scale * root, normalized, penalty, found.escalations)


def _resolved(gram: Gram, penalty: float, damping: float) -> tuple[Tensor, Normalized] | None:
    normalized = normalize(gram, damping=damping)
    shifted = normalized.matrix.clone()
    shifted.diagonal().add_(penalty)
    lower, info = torch.linalg.cholesky_ex(shifted)
    if info.any():
        return None
    return torch.cholesky_inverse(lower).mul_(penalty), normalized


def decompose(gram: Gram, *, damping: float = 0.01) -> Spectrum:
    """Return the eigenvalues and eigenvectors of Hn; raises as `normalize`.

    Rounding can leave eigenvalues of a rank-deficient Gram just below 0; they are put at 0.
    """
    normalized = normalize(gram, damping=damping)
    values, vectors = torch.linalg.eigh(normalized.matrix)
    return Spectrum(values.clamp_(min=0.0), vectors, normalized)
