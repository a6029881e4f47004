"""Structured pruning of input features: which columns to remove, and the values of the rest.

Removing column j of W, with all other columns compensating, raises ||X(W - V)'||^2 by

    ||W_:,j||^2 / (H^-1)_jj,    after which    W -= W_:,j / (H^-1)_jj (H^-1)_j,:

and H^-1 loses the feature by a rank-one update (structured Optimal Brain Surgeon). Columns are
removed in chunks, lowest scores first, since a rank-k update costs little more than a rank-one
update; scores are not recomputed within a chunk. ZipLM (https://arxiv.org/abs/2302.04089), section
3.1, removes one column at a time and also chooses how many; here the number is given.

`keep_groups` is the block form for groups S of consecutive columns, such as the query heads of one
key/value head: removing S raises the error by tr(W_S ((H^-1)_SS)^-1 W_S'). There are few groups, so
they are removed one at a time.

`refit_columns` then computes the least-squares values for any set S of kept columns. It minimises
||X(W - V)'||^2 + shift ||W - V||^2 over V that is zero outside S:

    V_S = W H_:,S (H_SS)^-1,   H = X'X + shift I.

The ridge term pulls V_S towards W_S rather than zero, so removing nothing changes nothing.

Legend: H = X'X plus damping on its diagonal; W [out_features, in_features].
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_finite, require_weight, require_width
from .damping import mean_live_diagonal
from .factor import Factor, decouple_dead_features
from .gram import Gram
from .output_error import relative_output_error
from .results import PrunedWeight

# Columns removed between two computations of the scores.
_CHUNK = 16


def keep_columns(weight: Tensor, factor: Factor, *, keep: int, chunk: int = _CHUNK) -> Tensor:
    """Return the indices of the ``keep`` columns to keep, int64 [keep], ascending.

    Dead features (zero on every token) are removed before all others.

    Args:
        weight: [out_features, in_features].
        factor: factorisation of the inputs' Gram matrix, in natural order.
        keep: number of columns to keep.
        chunk: columns removed between two computations of the scores.

    Raises:
        SettingError: ``keep`` is out of range, or shapes do not fit.
        SolverError: a weight is not finite.
    """
    require_weight(weight)
    require_width(weight, factor.upper, "factor")
    require_keep(keep, weight.shape[1], "columns")
    values, inverse = unpruned(weight, factor)
    kept = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
    left = weight.shape[1] - keep
    while left:
        scores = values.square().sum(0) / inverse.diagonal()  # ||W_:,j||^2 / (H^-1)_jj, [in]
        scores[factor.dead] = -1.0  # dead features go first
        scores[~kept] = torch.inf  # removed already
        removed = scores.topk(min(chunk, left), largest=False).indices
        remove(values, inverse, removed)  # update W and H^-1
        kept[removed] = False
        left -= len(removed)
    return kept.nonzero().flatten()


def require_keep(keep: int, count: int, things: str) -> None:
    """Raise SettingError unless ``keep`` is between 1 and ``count``."""
    if not 1 <= keep <= count:
        raise SettingError(f"cannot keep {keep} of {count} {things}; give 1 to {count}")


def unpruned(weight: Tensor, factor: Factor) -> tuple[Tensor, Tensor]:
    """Return copies of W and H^-1 to remove columns from, in the dtype of the factor or better."""
    if factor.order is not None:
        raise SettingError(
            "the factor's columns are in descending order, but this solver needs natural order; "
            "call factorize(gram, descending=False)"
        )
    dtype = torch.promote_types(weight.dtype, factor.upper.dtype)
    upper = factor.upper.to(dtype)
    return weight.detach().to(dtype, copy=True), upper.T @ upper


def remove(values: Tensor, inverse: Tensor, removed: Tensor) -> None:
    """Remove the columns ``removed`` (int64) from W and H^-1, in place.

    Both are zero there afterwards, except for ones on the diagonal of H^-1 so that it can be
    divided by.
    """
    rows = inverse[removed]  # (H^-1)_S,:, [k, in]
    lower = torch.linalg.cholesky(rows[:, removed])
    coefficients = torch.cholesky_solve(rows, lower)  # ((H^-1)_SS)^-1 (H^-1)_S,:, [k, in]
    values.addmm_(values[:, removed], coefficients, alpha=-1)  # W -= W_S coefficients
    inverse.addmm_(rows.T, coefficients, alpha=-1)  # rank-k downdate of H^-1
    # Clear what rounding left.
    values[:, removed] = 0.0
    inverse[removed] = 0.0
    inverse[:, removed] = 0.0
    inverse.diagonal()[removed] = 1.0


def keep_groups(weight: Tensor, factor: Factor, *, size: int, keep: int) -> Tensor:
    """Return the indices of the ``keep`` groups of columns to keep, int64 [keep], ascending.

    Args:
        weight: [out_features, in_features].
        factor: factorisation of the inputs' Gram matrix, in natural order.
        size: consecutive columns in each group.
        keep: number of groups to keep.

    Raises:
        SettingError: ``size`` does not divide the width, ``keep`` is out of range, or shapes do not
            fit.
        SolverError: a weight is not finite.
    """
    require_weight(weight)
    require_width(weight, factor.upper, "factor")
    width = weight.shape[1]
    if size < 1 or width % size:
        raise SettingError(
            f"groups of {size} columns do not divide a width of {width}; "
            f"give a size that divides {width}"
        )
    require_keep(keep, width // size, "groups")
    values, inverse = unpruned(weight, factor)
    columns = torch.arange(width, device=weight.device).view(-1, size)  # [groups, size]
    kept = list(range(len(columns)))
    while len(kept) > keep:
        cost = {group: _cost(values, inverse, columns[group]) for group in kept}
        cheapest = min(kept, key=cost.__getitem__)
        remove(values, inverse, columns[cheapest])
        kept.remove(cheapest)
    return torch.tensor(kept, device=weight.device)


def _cost(values: Tensor, inverse: Tensor, columns: Tensor) -> float:
    """Return tr(W_S ((H^-1)_SS)^-1 W_S') for the columns S."""
    lower = torch.linalg.cholesky(inverse[columns][:, columns])
    weights = values[:, columns].T  # [size, out]
    return float((weights * torch.cholesky_solve(weights, lower)).sum(dtype=torch.float64))


def refit_columns(weight: Tensor, gram: Gram, factor: Factor, columns: Tensor) -> PrunedWeight:
    """Compute the least-squares values of the kept ``columns``; every other column becomes zero.

    Args:
        weight: W, [out_features, in_features].
        gram: Gram matrix of the inputs.
        factor: a factorisation of the same Gram matrix, for the damping it succeeded with.
        columns: int64 [kept], S.

    Raises:
        SettingError: shapes do not fit.
        SolverError: a value is not finite.
    """
    require_weight(weight)
    require_width(weight, gram.matrix, "Gram matrix")
    hessian, _ = decouple_dead_features(gram)
    hessian.diagonal().add_(factor.damping * mean_live_diagonal(gram))
    dtype = torch.promote_types(weight.dtype, hessian.dtype)
    hessian = hessian.to(dtype)
    target = weight.detach().to(dtype) @ hessian[:, columns]  # W H_:,S, [out, kept]
    lower = torch.linalg.cholesky(hessian[columns][:, columns])  # of H_SS
    fitted = torch.zeros_like(weight)
    fitted[:, columns] = torch.cholesky_solve(target.T, lower).T.to(weight.dtype)
    require_finite(fitted, f"refitted weight in {weight.dtype}")
    mask = torch.zeros_like(weight, dtype=torch.bool)
    mask[:, columns] = True
    error = relative_output_error(weight, fitted, gram)
    return PrunedWeight(fitted, mask, (error,), factor.damping, factor.escalations)
