"""Round to nearest: every weight to the closest code, looking at no data. The baseline to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from .admission import require_mask, require_weight, require_width
from .factor import Factor
from .gram import Gram
from .grid import Grid, fit_scales
from .precision import working_dtype
from .results import Quantized


def quantize_round_to_nearest(
    weight: Tensor,
    gram: Gram | None = None,
    *,
    grid: Grid,
    scale_dtype: torch.dtype = torch.float32,
    mask: Tensor | None = None,
    factor: Factor | None = None,
) -> Quantized:
    """Quantise [out_features, in_features] group by group with min-max scales.

    ``gram`` serves only to measure the damage; without one ``relative_error`` is None. ``factor``
    is not used. Raises SettingError for arguments that do not fit, SolverError for values that are
    not finite.
    """
    require_weight(weight)
    values = weight.detach().to(working_dtype(weight))
    if mask is not None:
        require_mask(weight, mask)
        values = values.masked_fill(~mask, 0.0)
    if gram is not None:
        require_width(weight, gram.matrix, "Gram matrix")
    rows, width = weight.shape
    groups = values.reshape(rows, -1, grid.group_width(width))
    scales = fit_scales(groups, grid=grid, scale_dtype=scale_dtype)
    codes = scales.encode(groups).to(torch.int8).view(rows, width)
    quantized = Quantized.assemble(codes, scales)
    return quantized if gram is None else quantized.measured(weight, gram)
