"""Round to nearest: every weight to the closest code, with no error compensation. The baseline."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import require_mask, require_weight, require_width, working_dtype
from .factor import Factor
from .gram import Gram
from .grid import Grid, require_exact_zero
from .grid_search import ScaleRule, fit_groups
from .results import QuantizedWeight


def quantize_round_to_nearest(
    weight: Tensor,
    gram: Gram | None = None,
    *,
    grid: Grid,
    scale_dtype: torch.dtype = torch.float32,
    mask: Tensor | None = None,
    factor: Factor | None = None,
    matching: float = 0.0,
    scales: ScaleRule = "minmax",
) -> QuantizedWeight:
    """Quantise each group of columns separately.

    Args:
        weight: [out_features, in_features], any floating dtype.
        gram: Gram matrix of the inputs, to measure the error and to weight the columns of a
            searched scale by their input energy. Without it, columns count equally and
            ``relative_error`` is None.
        grid: the integer grid.
        scale_dtype: dtype that scales are stored in, unless the grid has its own.
        mask: boolean, same shape as ``weight``; False holds a weight at exactly zero.
        factor: not used.
        matching: not used.
        scales: "minmax" fits a scale to the extremes of its group, "searched" may clip them
            (`grid_search`).

    Raises:
        SettingError: an argument is out of range or has the wrong shape.
        SolverError: a value is not finite, or a scale overflows its dtype.
    """
    require_weight(weight)
    require_exact_zero(grid, mask)
    values = weight.detach().to(working_dtype(weight))
    if mask is not None:
        require_mask(weight, mask)
        values = values.masked_fill(~mask, 0.0)
    if gram is not None:
        require_width(weight, gram.matrix, "Gram matrix")
    rows, width = weight.shape
    groups = values.reshape(rows, -1, grid.group_width(width))  # [out, groups, group_size]
    importance = None if gram is None else _importance(gram).view(groups.shape[1:])
    fitted = fit_groups(
        groups, grid=grid, scale_dtype=scale_dtype, rule=scales, importance=importance
    )
    codes = fitted.unsqueeze(-1).encode(groups).to(torch.int8).view(rows, width)
    quantized = QuantizedWeight.assemble(codes, fitted)
    return quantized if gram is None else quantized.measured(weight, gram)


def _importance(gram: Gram) -> Tensor:
    """Return the diagonal of H, damped, [in_features].

    A feature that was zero in calibration may be non-zero later, so it gets a small weight, not 0.
    """
    return gram.diagonal + (0.01 * gram.diagonal.mean()).clamp(min=torch.finfo(torch.float32).tiny)
