"""How far a replaced weight moves a layer's output, measured on the calibration inputs.

||X(W - V)'||^2 / ||XW'||^2 with both norms taken from H = X'X, since ||XD'||^2 = trace(D H D').
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import require_finite, working_dtype
from .gram import Gram

_COLUMNS_PER_STRIP = 128


def relative_output_error(weight: Tensor, replacement: Tensor, gram: Gram) -> float:
    """Return the squared output error relative to the output's own energy.

    Products in float32 or better, sums of strips and of rows in float64. 0.0 when nothing moved;
    infinity when the output of ``weight`` is all zero and that of ``replacement`` is not. Raises
    SolverError for a Gram or replacement that is not finite.
    """
    return relative_output_errors(weight, replacement, gram, heights=(weight.shape[0],))[0]


def relative_output_errors(
    weight: Tensor, replacement: Tensor, gram: Gram, *, heights: Sequence[int]
) -> tuple[float, ...]:
    """Return the same for each of several layers stacked, of so many rows each."""
    require_finite(gram.matrix, "Gram matrix")
    require_finite(replacement, "replacement weight")
    dtype = torch.promote_types(working_dtype(weight), working_dtype(gram.matrix))
    hessian = gram.matrix.to(dtype)
    given = weight.detach().to(dtype)
    moved = _energies(given - replacement.detach().to(dtype), hessian, heights)
    whole = _energies(given, hessian, heights)
    return tuple(_ratio(error, energy) for error, energy in zip(moved, whole, strict=True))


def _ratio(error: float, energy: float) -> float:
    if error <= 0.0:
        return 0.0
    return error / energy if energy > 0.0 else float("inf")


def _energies(rows: Tensor, hessian: Tensor, heights: Sequence[int]) -> list[float]:
    """Return trace(R H R') of each layer's rows R; rounding may take one just below 0.

    H is symmetric: a strip of columns meets its own square once and what lies above it twice, which
    is half the work.
    """
    width = rows.shape[1]
    totals = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
    for start in range(0, width, _COLUMNS_PER_STRIP):
        stop = min(start + _COLUMNS_PER_STRIP, width)
        strip = rows[:, start:stop]
        products = strip @ hessian[start:stop, start:stop]
        products.addmm_(rows[:, :start], hessian[:start, start:stop], alpha=2)
        totals += products.mul_(strip).sum(dim=1)
    return [float(part.sum()) for part in totals.split(tuple(heights))]
