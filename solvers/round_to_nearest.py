"""Round to nearest: every weight to the closest code, compensating nothing. The one to beat."""

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
    """Quantise [out_features, in_features] group by group.

    ``scales="searched"`` clips where that serves the rest (`grid_search`), each column weighted by
    its input energy where there is a ``gram``; otherwise that serves only to measure the damage,
    and without one ``relative_error`` is None. ``factor`` and ``matching`` are not used. Raises
    SettingError for arguments that do not fit, SolverError for values that are not finite.
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
    groups = values.reshape(rows, -1, grid.group_width(width))
    importance = None if gram is None else _importance(gram).view(groups.shape[1:])
    fitted = fit_groups(
        groups, grid=grid, scale_dtype=scale_dtype, rule=scales, importance=importance
    )
    codes = fitted.unsqueeze(-1).encode(groups).to(torch.int8).view(rows, width)
    quantized = QuantizedWeight.assemble(codes, fitted)
    return quantized if gram is None else quantized.measured(weight, gram)


def _importance(gram: Gram) -> Tensor:
    """Return H's diagonal, damped: a feature silent in calibration may speak later."""
    return gram.diagonal + (0.01 * gram.diagonal.mean()).clamp(min=torch.finfo(torch.float32).tiny)
