"""What the columns that stay should hold: one exact ridge solve.

Minimises ||X(W - V)'||^2 + shift ||W - V||^2 over V that is zero outside the columns S:

    V_S = W H_:,S (H_SS)^-1,   H = X'X + shift I.

The ridge draws V_S to W_S rather than to zero, so that nothing removed means nothing changed.
GRAIL does the same after any structured pruning. The set may
be anybody's; the steps that chose it leave no trace.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .admission import require_finite, require_weight, require_width
from .damping import mean_live_diagonal
from .factor import Factor, decoupled
from .gram import Gram
from .output_error import relative_output_error
from .results import Pruned


def refit_columns(weight: Tensor, gram: Gram, factor: Factor, columns: Tensor) -> Pruned:
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
    return Pruned(fitted, mask, (error,), factor.damping, factor.escalations)
