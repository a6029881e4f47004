"""The relative output error of a replaced weight on the calibration inputs.

The error is ||X(W - V)'||^2 / ||XW'||^2, with W the weight, V its replacement and X the inputs.
Both norms come from H = X'X alone, since ||XD'||^2 = trace(D H D').
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import require_finite, working_dtype
from .gram import Gram

# Columns of H used at a time; bounds the size of the products.
_COLUMNS_PER_STRIP = 128


def relative_output_error(weight: Tensor, replacement: Tensor, gram: Gram) -> float:
    """Return the squared output error as a fraction of the squared output of ``weight``.

    Args:
        weight: W, [out_features, in_features].
        replacement: V, same shape.
        gram: Gram matrix of the layer's inputs.

    Returns:
        0.0 if the output does not change; infinity if the output of ``weight`` is zero on all
        tokens and that of ``replacement`` is not. Products are in float32 or float64, sums in
        float64.

    Raises:
        SolverError: the Gram matrix or ``replacement`` is not finite.
    """
    return relative_output_errors(weight, replacement, gram, heights=(weight.shape[0],))[0]


def relative_output_errors(
    weight: Tensor, replacement: Tensor, gram: Gram, *, heights: Sequence[int]
) -> tuple[float, ...]:
    """Return `relative_output_error` of each of several layers whose rows are stacked.

    ``heights`` is the number of rows (out_features) of each layer, from the top.
    """
    require_finite(gram.matrix, "Gram matrix")
    require_finite(replacement, "replacement weight")
    dtype = torch.promote_types(working_dtype(weight), working_dtype(gram.matrix))
    hessian = gram.matrix.to(dtype)
    original = weight.detach().to(dtype)
    errors = _squared_outputs(original - replacement.detach().to(dtype), hessian, heights)
    outputs = _squared_outputs(original, hessian, heights)
    return tuple(_ratio(error, output) for error, output in zip(errors, outputs, strict=True))


def _ratio(error: float, output: float) -> float:
    if error <= 0.0:  # rounding may leave a zero error just below 0
        return 0.0
    return error / output if output > 0.0 else float("inf")


def _squared_outputs(rows: Tensor, hessian: Tensor, heights: Sequence[int]) -> list[float]:
    """Return trace(R H R') for the rows R of each layer.

    H is symmetric, so each strip of columns needs its own diagonal square once and the part above
    the square twice. That halves the work.
    """
    width = rows.shape[1]
    totals = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
    for start in range(0, width, _COLUMNS_PER_STRIP):
        stop = min(start + _COLUMNS_PER_STRIP, width)
        strip = rows[:, start:stop]  # [out, columns]
        products = strip @ hessian[start:stop, start:stop]  # the diagonal square
        products.addmm_(rows[:, :start], hessian[:start, start:stop], alpha=2)  # above it, twice
        totals += products.mul_(strip).sum(dim=1)
    return [float(part.sum()) for part in totals.split(tuple(heights))]
