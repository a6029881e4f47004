"""The tables of solvers. To add a method, add a row; the property tests run over all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from .admm import prune_admm
from .alps import prune_alps
from .factor import Factor, factorize
from .gptq import quantize_gptq
from .gram import Gram
from .grid import Grid
from .magnitude import prune_magnitude
from .masks import UNSTRUCTURED, Pattern
from .normalized import decompose, resolve
from .results import PrunedWeight, QuantizedWeight
from .round_to_nearest import quantize_round_to_nearest
from .sparsegpt import prune_sparsegpt
from .wanda import prune_wanda


class Pruner(Protocol):
    """A pruning method.

    Args:
        weight: [out_features, in_features].
        gram: Gram matrix of the layer's inputs.
        sparsity: fraction of weights to remove; None for an n:m pattern.
        pattern: unstructured or n:m.
        heights: rows of each layer, if several with the same input are stacked into one weight.
        factor: what `PREPARE` computes from the Gram matrix for this method, to share it among
            layers with the same input.
        matching: fraction of the upstream error to correct (`target_shift`), for methods that
            change values.
    """

    def __call__(
        self,
        weight: Tensor,
        gram: Gram,
        *,
        sparsity: float | None = None,
        pattern: Pattern = UNSTRUCTURED,
        heights: Sequence[int] | None = None,
        factor: Any = None,
        matching: float = 0.0,
    ) -> PrunedWeight: ...


class Prepare(Protocol):
    """Computes from a Gram matrix what a method works from."""

    def __call__(self, gram: Gram, *, damping: float) -> Any: ...


class Quantizer(Protocol):
    """A quantisation method.

    Args:
        weight: [out_features, in_features].
        gram: Gram matrix of the layer's inputs; some methods can do without.
        grid: the integer grid.
        scale_dtype: dtype that scales are stored in, unless the grid has its own.
        mask: boolean (True = kept); pruned weights stay exactly zero.
        factor: what `PREPARE` computes from the Gram matrix for this method.
        matching: fraction of the upstream error to correct (`target_shift`), for methods that use
            calibration inputs.
    """

    def __call__(
        self,
        weight: Tensor,
        gram: Gram | None,
        *,
        grid: Grid,
        scale_dtype: torch.dtype = torch.float32,
        mask: Tensor | None = None,
        factor: Factor | None = None,
        matching: float = 0.0,
    ) -> QuantizedWeight: ...


# The pruning methods by name.
PRUNERS: Mapping[str, Pruner] = MappingProxyType(
    {
        "magnitude": prune_magnitude,
        "wanda": prune_wanda,
        "sparsegpt": prune_sparsegpt,
        "admm": prune_admm,
        "alps": prune_alps,
    }
)

# The quantisation methods by name.
QUANTIZERS: Mapping[str, Quantizer] = MappingProxyType(
    {"rtn": quantize_round_to_nearest, "gptq": quantize_gptq}
)

# What a method needs besides the Gram matrix, computed once for all layers that share an input.
PREPARE: Mapping[str, Prepare] = MappingProxyType(
    {
        "sparsegpt": factorize,
        "admm": resolve,
        "alps": decompose,
        "gptq": partial(factorize, descending=True),
    }
)
