"""The triangular factor of the inverse Hessian, made once and shared by every layer on one input.

Legend: H = X'X plus damping on its diagonal; U upper triangular with U'U = H^-1. Row j of U,
divided by U_jj, tells how the error of column j is paid for by the columns after it.

Reversing rows and columns turns the lower Cholesky factor of H into an upper one: with P the
reversal and PHP = LL', R = PLP is upper triangular and H = RR', so U = R^-1. That is one Cholesky
and one triangular inverse where the textbook route takes a Cholesky, an inverse and a Cholesky.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import all_finite, require_finite, working_dtype
from .damping import escalate, mean_live_diagonal
from .gram import Gram

_INVERTED_WHOLE = 192


@dataclass(frozen=True, eq=False)
class Factor:
    """U with U'U = (H + damping)^-1, and how it was come by.

    Attributes:
        upper: U, [in_features, in_features], upper triangular, diagonal positive.
        damping: the damping used, relative to the mean of H's diagonal over live features.
        escalations: how often the damping had to be raised tenfold; 0 when it held at once.
        dead: boolean [in_features], features never seen non-zero; their H_jj was set to 1.
        order: [in_features] original index of each of U's columns, or None for the natural order.
    """

    upper: Tensor
    damping: float
    escalations: int
    dead: Tensor
    order: Tensor | None = None


def factorize(gram: Gram, *, damping: float = 0.01, descending: bool = False) -> Factor:
    """Factorise the damped inverse of a Gram matrix.

    ``damping`` is a fraction of the mean diagonal over live features, raised as `escalate` does.
    ``descending`` permutes the features by falling diagonal first (GPTQ's activation order).

    Raises SettingError for a negative damping; SolverError if H is not finite or never factorises.
    """
    require_finite(gram.matrix, "Gram matrix")
    hessian, dead = decoupled(gram)
    order = hessian.diagonal().argsort(descending=True, stable=True) if descending else None
    if order is not None:
        hessian = in_order(hessian.index_select(0, order), order)
    mean = mean_live_diagonal(gram)
    found = escalate(gram, damping, lambda tried: _upper_factor(hessian, shift=tried * mean))
    return Factor(found.made, found.damping, found.escalations, dead, order)


def decoupled(gram: Gram) -> tuple[Tensor, Tensor]:
    """Return H as a fresh tensor with dead features decoupled at H_jj = 1, and which are dead."""
    hessian = gram.matrix.to(working_dtype(gram.matrix), copy=True)
    dead = gram.dead
    hessian.diagonal()[dead] = 1.0
    return hessian, dead


def in_order(rows: Tensor, order: Tensor) -> Tensor:
    """Return the columns of a matrix in another order, gathered: a quarter of an index's time."""
    return rows.gather(1, order.expand_as(rows))


def _upper_factor(hessian: Tensor, *, shift: float) -> Tensor | None:
    """Return U for H + shift I, or None where arithmetic finds it not positive definite."""
    damped = hessian.clone()
    damped.diagonal().add_(shift)
    lower, info = torch.linalg.cholesky_ex(damped.flip(0, 1))
    if int(info) != 0:
        return None
    upper = _inverse(lower.flip(0, 1))
    return upper if all_finite(upper) else None


def _inverse(upper: Tensor) -> Tensor:
    """Invert an upper triangle, halving it: nearly all is products of half the size.

    A triangular solve against the identity does not know that half of that is zero.
    """
    width = upper.shape[0]
    if width <= _INVERTED_WHOLE:
        identity = torch.eye(width, dtype=upper.dtype, device=upper.device)
        whole: Tensor = torch.linalg.solve_triangular(upper, identity, upper=True)
        return whole
    half = width // 2
    inverse = torch.zeros_like(upper, memory_format=torch.contiguous_format)
    inverse[:half, :half] = _inverse(upper[:half, :half])
    inverse[half:, half:] = _inverse(upper[half:, half:])
    corner = inverse[:half, :half] @ upper[:half, half:]
    torch.mm(corner, inverse[half:, half:], out=inverse[:half, half:]).neg_()
    return inverse
