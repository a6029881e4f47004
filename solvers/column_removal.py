"""Which whole columns of a layer to do without: structured Optimal Brain Surgeon.

Taking input feature j away and letting all others make up for it raises ||X(W - V)'||^2 by

    ||W_:,j||^2 / (H^-1)_jj,    W <- W - W_:,j / (H^-1)_jj (H^-1)_j,:,

and H^-1 loses the feature by a rank-one update. The lowest go first, a chunk at a time, since a
rank-k update costs little more than one of rank one; inside a chunk scores are not renewed.
ZipLM (https://arxiv.org/abs/2302.04089), section 3.1, removes one at a time and for several layers
of one size chooses the size too; here the size is given.

Legend: H = X'X plus damping on its diagonal; W [out_features, in_features].
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_finite, require_weight, require_width
from .damping import mean_live_diagonal
from .factor import Factor, decoupled
from .gram import Gram
from .output_error import relative_output_error
from .results import PrunedWeight

_CHUNK = 16


def keep_columns(weight: Tensor, factor: Factor, *, keep: int, chunk: int = _CHUNK) -> Tensor:
    """Return which ``keep`` columns of ``weight`` stay, int64 [keep], ascending.

    Features that were never seen non-zero go before any other. ``factor`` is in the natural order.
    Raises SettingError for a count out of range or shapes that do not fit, SolverError for weights
    that are not finite.
    """
    require_weight(weight)
    require_width(weight, factor.upper, "factor")
    require_keep(keep, weight.shape[1], "columns")
    values, inverse = start(weight, factor)
    kept = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
    left = weight.shape[1] - keep
    while left:
        scores = values.square().sum(0) / inverse.diagonal()
        scores[factor.dead] = -1.0
        scores[~kept] = torch.inf
        gone = scores.topk(min(chunk, left), largest=False).indices
        remove(values, inverse, gone)
        kept[gone] = False
        left -= len(gone)
    return kept.nonzero().flatten()


def require_keep(keep: int, count: int, things: str) -> None:
    """Raise SettingError unless at least one and at most all stay."""
    if not 1 <= keep <= count:
        raise SettingError(f"cannot keep {keep} of {count} {things}; give 1 to {count}")


def start(weight: Tensor, factor: Factor) -> tuple[Tensor, Tensor]:
    """Return the weight and H^-1, both fresh, in the dtype of the factor or better."""
    if factor.order is not None:
        raise SettingError("the factor's features are reordered; factorise in the natural order")
    dtype = torch.promote_types(weight.dtype, factor.upper.dtype)
    upper = factor.upper.to(dtype)
    return weight.detach().to(dtype, copy=True), upper.T @ upper


def remove(values: Tensor, inverse: Tensor, gone: Tensor) -> None:
    """Take columns ``gone`` out of W and H^-1, in place; both are then zero there but for ones on
    the diagonal of H^-1, so that it can be divided by."""
    rows = inverse[gone]
    lower = torch.linalg.cholesky(rows[:, gone])
    shares = torch.cholesky_solve(rows, lower)
    values.addmm_(values[:, gone], shares, alpha=-1)
    inverse.addmm_(rows.T, shares, alpha=-1)
    values[:, gone] = 0.0
    inverse[gone] = 0.0
    inverse[:, gone] = 0.0
    inverse.diagonal()[gone] = 1.0


def keep_groups(weight: Tensor, factor: Factor, *, size: int, keep: int) -> Tensor:
    """Return which ``keep`` groups of ``size`` consecutive columns stay, int64 [keep], ascending.

    ``factor`` is in the natural order. Raises SettingError for a size that does not divide the
    width, a count out of range or shapes that do not fit, SolverError for weights that are not
    finite.
    """
    require_weight(weight)
    require_width(weight, factor.upper, "factor")
    width = weight.shape[1]
    if size < 1 or width % size:
        raise SettingError(f"groups of {size} columns do not divide a width of {width}")
    require_keep(keep, width // size, "groups")
    values, inverse = start(weight, factor)
    columns = torch.arange(width, device=weight.device).view(-1, size)
    kept = list(range(len(columns)))
    while len(kept) > keep:
        cost = {group: _cost(values, inverse, columns[group]) for group in kept}
        cheapest = min(kept, key=cost.__getitem__)
        remove(values, inverse, columns[cheapest])
        kept.remove(cheapest)
    return torch.tensor(kept, device=weight.device)


def _cost(values: Tensor, inverse: Tensor, columns: Tensor) -> float:
    lower = torch.linalg.cholesky(inverse[columns][:, columns])
    weights = values[:, columns].T
    return float((weights * torch.cholesky_solve(weights, lower)).sum(dtype=torch.float64))


def refit_columns(weight: Tensor, gram: Gram, factor: Factor, columns: Tensor) -> PrunedWeight:
    """Return least-squares values for ``columns``, int64 [kept]; every other column is zero.

    ``factor`` is of the same Gram and says at which damping that is positive definite. Raises
    SettingError for shapes that do not fit, SolverError for values that are not finite.
    """
    require_weight(weight)
    require_width(weight, gram.matrix, "Gram matrix")
    hessian, _ = decoupled(gram)
    hessian.diagonal().add_(factor.damping * mean_live_diagonal(gram))
    dtype = torch.promote_types(weight.dtype, hessian.dtype)
    hessian = hessian.to(dtype)
    wanted = weight.detach().to(dtype) @ hessian[:, columns]
    lower = torch.linalg.cholesky(hessian[columns][:, columns])
    fitted = torch.zeros_like(weight)
    fitted[:, columns] = torch.cholesky_solve(wanted.T, lower).T.to(weight.dtype)
    require_finite(fitted, f"refitted weight in {weight.dtype}")
    mask = torch.zeros_like(weight, dtype=torch.bool)
    mask[:, columns] = True
    error = relative_output_error(weight, fitted, gram)
    return PrunedWeight(fitted, mask, (error,), factor.damping, factor.escalations)
