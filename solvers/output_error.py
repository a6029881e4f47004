"""How far a replaced weight moves a layer's output, measured on the calibration inputs.

||X(W - V)'||^2 / ||XW'||^2 with both norms taken from H = X'X, since ||XD'||^2 = trace(D H D').
"""

from __future__ import annotations

import torch
from torch import Tensor

from .admission import require_finite
from .gram import Gram
from .precision import working_dtype

_COLUMNS_PER_STRIP = 256


def relative_output_error(weight: Tensor, replacement: Tensor, gram: Gram) -> float:
    """Return the squared output error relative to the output's own energy.

    Products in float32 or better, sums in float64. 0.0 when nothing moved; infinity when the output
    of ``weight`` is all zero and that of ``replacement`` is not. Raises SolverError for a Gram or
    replacement that is not finite.
    """
    require_finite(gram.matrix, "Gram matrix")
    require_finite(replacement, "replacement weight")
    dtype = torch.promote_types(working_dtype(weight), working_dtype(gram.matrix))
    hessian = gram.matrix.to(dtype)
    folded = hessian.triu() + hessian.triu(1)
    given = weight.detach().to(dtype)
    error = _energy(given - replacement.detach().to(dtype), folded)
    if error == 0.0:
        return 0.0
    reference = _energy(given, folded)
    return error / reference if reference > 0.0 else float("inf")


def _energy(rows: Tensor, folded: Tensor) -> float:
    """Return trace(rows H rows'), clipped at 0 where rounding would take it below.

    ``folded`` is H with its lower triangle added onto the upper, which leaves the trace as it is
    and halves the work: a strip of columns is only as deep as its last one.
    """
    width = rows.shape[1]
    total = torch.zeros((), dtype=torch.float64, device=rows.device)
    for start in range(0, width, _COLUMNS_PER_STRIP):
        stop = min(start + _COLUMNS_PER_STRIP, width)
        products = (rows[:, :stop] @ folded[:stop, start:stop]).mul_(rows[:, start:stop])
        total += products.sum(dtype=torch.float64)
    return max(float(total), 0.0)
