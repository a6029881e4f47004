"""Least squares on a given mask: the best values for the weights that are kept.

Minimises ||X(W - V)'||^2 over V that is zero where the mask is False. Each row is an independent
problem; all rows are solved at once by conjugate gradients, with one matrix product and two
temporaries of the weight's size per step. In the units of `normalized` the Hessian has a unit
diagonal, which is the Jacobi preconditioner. ALPS (https://arxiv.org/abs/2406.07831), section 3.3;
the method is that of Hestenes and Stiefel (1952).

Unlike SparseGPT, which compensates only in later columns, this adjusts all kept weights. If the
mask removes nothing and the target has no shift (`target`), the result is W itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import require_finite, require_mask, require_weight, require_width
from .gram import Gram
from .normalized import Normalized, normalize


def refit(
    weight: Tensor,
    mask: Tensor,
    gram: Gram,
    *,
    start: Tensor | None = None,
    shift: Tensor | None = None,
    steps: int = 10,
    normalized: Normalized | None = None,
    damping: float = 0.01,
) -> Tensor:
    """Return the least-squares values on ``mask``, [out_features, in_features].

    The result has the dtype of ``weight``. No step raises the damped error of any row.

    Args:
        weight: W, [out_features, in_features].
        mask: boolean, same shape, True = kept.
        gram: Gram matrix of the inputs.
        start: values to start from; the masked weight if None. Values from another method save
            steps.
        shift: [out_features, in_features], added to the right-hand side W H, see `target_shift`.
        steps: conjugate gradient steps.
        normalized: `normalize` of the same Gram matrix to reuse; its damping replaces ``damping``.
        damping: added to the Hessian's diagonal, as a fraction of its mean.

    Raises:
        SettingError: an argument is out of range or has the wrong shape.
        SolverError: a value is not finite.
    """
    require_weight(weight)
    require_mask(weight, mask)
    require_width(weight, gram.matrix, "Gram matrix")
    normalized = normalized or normalize(gram, damping=damping)
    hessian, scale = normalized.matrix, normalized.scale
    first = weight if start is None else start
    require_finite(first, "start")
    target = weight.detach().to(scale.dtype) * scale  # Wn, [out, in]
    values = (first.detach().to(scale.dtype) * scale).masked_fill_(~mask, 0.0)  # Vn
    # r = (Wn - Vn) Hn on the mask: minus half the gradient
    residual = (target - values) @ hessian
    if shift is not None:
        residual += shift.to(scale.dtype) / scale
    residual.masked_fill_(~mask, 0.0)
    direction = residual.clone()  # p
    squared = residual.square().sum(dim=1, keepdim=True)  # r'r, [out, 1]
    for _ in range(steps):
        # step length a = r'r / p'Hp of every row
        product = (direction @ hessian).masked_fill_(~mask, 0.0)
        curvature = (direction * product).sum(dim=1, keepdim=True)
        length = _ratio(squared, curvature)
        # V += a p; r -= a H p
        values.addcmul_(direction, length)
        residual.addcmul_(product, length, value=-1)
        # p = r + (r'r new / r'r old) p
        new_squared = residual.square().sum(dim=1, keepdim=True)
        direction.mul_(_ratio(new_squared, squared)).add_(residual)
        squared = new_squared
    fitted = values.div_(scale).masked_fill_(~mask, 0.0).to(weight.dtype)
    require_finite(fitted, f"refitted weight in {weight.dtype}")
    return fitted


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Return above / below, [out, 1]; 0 for a row that has converged, where both are 0."""
    return torch.where(below > 0, above / below.clamp(min=torch.finfo(below.dtype).tiny), 0.0)
