"""Scores that pruning methods rank weights by, all [out_features, in_features] and at least 0."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_weight, require_width, working_dtype
from .factor import Factor
from .gram import Gram


def magnitude_saliency(weight: Tensor) -> Tensor:
    """Return |W|; needs no data."""
    require_weight(weight)
    return weight.detach().to(working_dtype(weight)).abs()


def wanda_saliency(weight: Tensor, gram: Gram) -> Tensor:
    """Return |W_ij| ||X_j||, to be compared within a row (https://arxiv.org/abs/2306.11695)."""
    require_weight(weight)
    require_width(weight, gram.matrix, "Gram matrix")
    return magnitude_saliency(weight) * gram.column_norms.to(working_dtype(weight))


def obs_saliency(weight: Tensor, factor: Factor) -> Tensor:
    """Return W_ij^2 / U_jj^2, the score of SparseGPT (https://arxiv.org/abs/2301.00774).

    U_jj^2 is the j-th diagonal entry of the inverse of H restricted to columns j and later. The
    score is the least squared output error of removing the weight if only later columns compensate.
    """
    require_weight(weight)
    require_width(weight, factor.upper, "factor")
    require_natural_order(factor)
    dtype = torch.promote_types(working_dtype(weight), factor.upper.dtype)
    return (weight.detach().to(dtype) / factor.upper.diagonal().to(dtype)).square()


def require_natural_order(factor: Factor) -> None:
    """Raise SettingError if the columns of ``factor`` are permuted."""
    if factor.order is not None:
        raise SettingError(
            "the factor's columns are in descending order, but this solver needs natural order; "
            "call factorize(gram, descending=False)"
        )
