"""Which groups of columns of a layer to do without: the block form of `column_removal`.

Taking the columns S of a group away and letting all others make up for it raises the layer's
output error ||X(W - V)'||^2 by tr(W_S ((H^-1)_SS)^-1 W_S'). There are few groups, the query heads
of one key/value head each, so one goes at a time.

Legend: H = X'X plus damping on its diagonal; W [out_features, in_features].
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SettingError
from .admission import require_weight, require_width
from .column_removal import remove, require_keep, start
from .factor import Factor


def keep_groups(weight: Tensor, factor: Factor, *, size: int, keep: int) -> Tensor:
    """Return which ``keep`` groups of ``size`` consecutive columns stay, int64 [keep], ascending.

    ``factor`` is in the natural order. Raises SettingError for a size that does not divide the
    width, a count out of range or shapes that do not fit, SolverError for weights that are not
    finite.
    """
    require_weight(weight)
    require_width(weight, factor.upper, "factor")
    width = weight.shape[1]
    if size < 1 or width % size:
        raise SettingError(f"groups of {size} columns do not divide a width of {width}")
    require_keep(keep, width // size, "groups")
    values, inverse = start(weight, factor)
    columns = torch.arange(width, device=weight.device).view(-1, size)
    kept = list(range(len(columns)))
    while len(kept) > keep:
        cost = {group: _cost(values, inverse, columns[group]) for group in kept}
        cheapest = min(kept, key=cost.__getitem__)
        remove(values, inverse, columns[cheapest])
        kept.remove(cheapest)
    return torch.tensor(kept, device=weight.device)


def _cost(values: Tensor, inverse: Tensor, columns: Tensor) -> float:
    lower = torch.linalg.cholesky(inverse[columns][:, columns])
    weights = values[:, columns].T
    return float((weights * torch.cholesky_solve(weights, lower)).sum(dtype=torch.float64))
