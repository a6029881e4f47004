"""How much each single weight matters: the scores that pruners rank by, all [out, in] and >= 0."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_weight, require_width, working_dtype
from .factor import Factor
from .gram import Gram


def magnitude_saliency(weight: Tensor) -> Tensor:
    """Return |W|; no data is looked at."""
    require_weight(weight)
    return weight.detach().to(working_dtype(weight)).abs()


def wanda_saliency(weight: Tensor, gram: Gram) -> Tensor:
    """Return |W_ij| ||X_j||, to be compared within a row (https://arxiv.org/abs/2306.11695)."""
    require_weight(weight)
    require_width(weight, gram.matrix, "Gram matrix")
    return magnitude_saliency(weight) * gram.column_norms.to(working_dtype(weight))


def obs_saliency(weight: Tensor, factor: Factor) -> Tensor:
    """Return W_ij^2 / U_jj^2, SparseGPT's score (https://arxiv.org/abs/2301.00774).

    U_jj^2 is the j-th diagonal entry of the inverse Hessian restricted to columns j and after: the
    least output error of removing the weight when only columns after it may make up for it.
    """
    require_weight(weight)
    require_width(weight, factor.upper, "factor")
    require_natural_order(factor)
    dtype = torch.promote_types(working_dtype(weight), factor.upper.dtype)
    return (weight.detach().to(dtype) / factor.upper.diagonal().to(dtype)).square()


def require_natural_order(factor: Factor) -> None:
    """Raise SettingError for a factor whose columns were permuted."""
    if factor.order is not None:
        raise SettingError(
            "the factor's columns are in descending order, and this solver walks them in natural "
            "order; make it with factorize(gram, descending=False)"
        )
