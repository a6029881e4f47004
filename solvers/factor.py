"""The triangular factor of the inverse Hessian that SparseGPT and GPTQ work from.

It depends only on the layer's inputs, so it is computed once and shared by all layers with the same
input (q, k and v; gate and up).

Legend: H = X'X plus damping on its diagonal. U is upper triangular with U'U = H^-1. After column j
was changed, row j of U divided by U_jj is the direction in which the later columns compensate.

The published code computes a Cholesky factorisation, an inverse and a second Cholesky
factorisation. One Cholesky factorisation and one triangular inverse are enough: with P the matrix
that reverses the order of rows and PHP = LL' (Cholesky), R = PLP is upper triangular and H = RR',
so U = R^-1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import is_finite, require_finite, working_dtype
from .damping import escalate, mean_live_diagonal
from .gram import Gram

# Up to this width a triangle is inverted directly, above it in halves.
_DIRECT_INVERSE = 192


@dataclass(frozen=True, eq=False)
class Factor:
    """U with U'U = (H + damping)^-1.

    Attributes:
        upper: U, [in_features, in_features], upper triangular with a positive diagonal.
        damping: the damping used, as a fraction of the mean diagonal of H over live features.
        escalations: how many times the damping was multiplied by ten; 0 if the first attempt
            succeeded.
        dead: boolean [in_features], True for features that were zero on every token. Their H_jj was
            set to 1.
        order: int64 [in_features], the original index of each column of U; None for natural order.
    """

    upper: Tensor
    damping: float
    escalations: int
    dead: Tensor
    order: Tensor | None = None


def factorize(gram: Gram, *, damping: float = 0.01, descending: bool = False) -> Factor:
    """Factorise the inverse of a damped Gram matrix.

    Args:
        gram: the Gram matrix.
        damping: fraction of the mean diagonal over live features to add to the diagonal; raised as
            in `escalate` if the factorisation fails.
        descending: sort the features by falling diagonal first (the activation order of GPTQ).

    Raises:
        SettingError: ``damping`` is negative or not finite.
        SolverError: the Gram matrix is not finite, or not positive definite at the highest damping.
    """
    require_finite(gram.matrix, "Gram matrix")
    hessian, dead = decouple_dead_features(gram)
    order = hessian.diagonal().argsort(descending=True, stable=True) if descending else None
    if order is not None:
        hessian = reorder_columns(hessian.index_select(0, order), order)
    mean = mean_live_diagonal(gram)
    found = escalate(gram, damping, lambda tried: _upper_factor(hessian, shift=tried * mean))
    return Factor(found.value, found.damping, found.escalations, dead, order)


def decouple_dead_features(gram: Gram) -> tuple[Tensor, Tensor]:
    """Return a copy of H in which every dead feature has H_jj = 1, and the mask of dead features.

    A dead feature's row and column of H are zero, so H would be singular without this.
    """
    hessian = gram.matrix.to(working_dtype(gram.matrix), copy=True)
    dead = gram.dead
    hessian.diagonal()[dead] = 1.0
    return hessian, dead


def reorder_columns(rows: Tensor, order: Tensor) -> Tensor:
    """Return ``rows[:, order]``. `gather` takes a quarter of the time of indexing."""
    return rows.gather(1, order.expand_as(rows))


def _upper_factor(hessian: Tensor, *, shift: float) -> Tensor | None:
    """Return U for H + shift I, or None if the Cholesky factorisation fails."""
    damped = hessian.clone()
    damped.diagonal().add_(shift)
    lower, info = torch.linalg.cholesky_ex(damped.flip(0, 1))  # PHP = LL'
    if int(info) != 0:
        return None
    upper = _inverse(lower.flip(0, 1))  # U = (PLP)^-1
    return upper if is_finite(upper) else None


def _inverse(upper: Tensor) -> Tensor:
    """Invert an upper triangular matrix recursively, in halves.

    inv([[A, B], [0, D]]) = [[A^-1, -A^-1 B D^-1], [0, D^-1]]. Nearly all work is in matrix
    products; a triangular solve against the identity would not use that half of the identity is
    zero.
    """
    width = upper.shape[0]
    if width <= _DIRECT_INVERSE:
        identity = torch.eye(width, dtype=upper.dtype, device=upper.device)
        whole: Tensor = torch.linalg.solve_triangular(upper, identity, upper=True)
        return whole
    half = width // 2
    inverse = torch.zeros_like(upper, memory_format=torch.contiguous_format)
    inverse[:half, :half] = _inverse(upper[:half, :half])  # A^-1
    inverse[half:, half:] = _inverse(upper[half:, half:])  # D^-1
    corner = inverse[:half, :half] @ upper[:half, half:]  # A^-1 B
    torch.mm(corner, inverse[half:, half:], out=inverse[:half, half:]).neg_()
    return inverse
