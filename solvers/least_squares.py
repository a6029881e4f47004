"""Least squares on a given mask: the best values the weights that stay can take.

Minimises ||X(W - V)'||^2 over V that is zero where the mask is, row by row an independent problem,
all rows at once by conjugate gradients: two matrix-shaped temporaries and one product a step. In
the units of `normalized` the diagonal is 1, which is Jacobi's preconditioner made once.
https://arxiv.org/abs/2406.07831, section 3.3; the method is Hestenes and Stiefel's (1952).

Unlike SparseGPT's compensation, which only passes errors to later columns, every weight that stays
takes part. Where the mask removes nothing and nothing pulls (`target`), the answer is W itself.
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
    pull: Tensor | None = None,
    steps: int = 10,
    normalized: Normalized | None = None,
    damping: float = 0.01,
) -> Tensor:
    """Return values [out_features, in_features] for ``mask`` (True = kept), in the weight's dtype.

    ``start`` is where the steps set out from, the masked weight itself if None: another method's
    values save steps. ``pull``, [out_features, in_features], is what is asked for beside W H
    (`pull_of`). No step raises the damped error of a row. ``normalized`` reuses `normalize` of the
    same Gram, and its damping then holds.

    Raises SettingError for shapes that do not fit, SolverError for values that are not finite.
    """
    require_weight(weight)
    require_mask(weight, mask)
    require_width(weight, gram.matrix, "Gram matrix")
    normalized = normalized or normalize(gram, damping=damping)
    hessian, scale = normalized.matrix, normalized.scale
    first = weight if start is None else start
    require_finite(first, "start")
    goal = weight.detach().to(scale.dtype) * scale
    values = (first.detach().to(scale.dtype) * scale).masked_fill_(~mask, 0.0)
    residual = (goal - values) @ hessian
    if pull is not None:
        residual += pull.to(scale.dtype) / scale
    residual.masked_fill_(~mask, 0.0)
    direction = residual.clone()
    energy = residual.square().sum(dim=1, keepdim=True)
    for _ in range(steps):
        product = (direction @ hessian).masked_fill_(~mask, 0.0)
        curvature = (direction * product).sum(dim=1, keepdim=True)
        length = _ratio(energy, curvature)
        values.addcmul_(direction, length)
        residual.addcmul_(product, length, value=-1)
        left = residual.square().sum(dim=1, keepdim=True)
        direction.mul_(_ratio(left, energy)).add_(residual)
        energy = left
    fitted = values.div_(scale).masked_fill_(~mask, 0.0).to(weight.dtype)
    require_finite(fitted, f"refitted weight in {weight.dtype}")
    return fitted


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Return above / below, 0 for a row that is done, where both are 0."""
    return torch.where(below > 0, above / below.clamp(min=torch.finfo(below.dtype).tiny), 0.0)
