"""Stack the weights of linears that share an input: one factorisation solves them together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import SolverError
from ...solvers.checks import require_weight
from ..blocks.linears import Linear, named


def stacked(weights: Sequence[tuple[Linear, Tensor]]) -> Tensor:
    """The weights ``[out_features, in_features]``, concatenated along the rows.

    Raises:
        SolverError: a weight that is not finite, naming its linear.
    """
    for linear, weight in weights:
        try:
            require_weight(weight)
        except SolverError as error:
            raise named(linear, error) from error
    return torch.cat([weight for _, weight in weights])
