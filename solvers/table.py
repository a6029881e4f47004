"""The tables of solvers: adding a method is adding a row, and every property test runs over it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from .factor import Factor
from .gptq import quantize_gptq
from .gram import Gram
from .grid import Grid
from .magnitude import prune_magnitude
from .masks import UNSTRUCTURED, Pattern
from .results import Pruned, Quantized
from .round_to_nearest import quantize_round_to_nearest
from .sparsegpt import prune_sparsegpt
from .wanda import prune_wanda


class Pruner(Protocol):
    """A pruning method; give ``factor`` to share one factorisation among layers on one input."""

    def __call__(
        self,
        weight: Tensor,
        gram: Gram,
        *,
        sparsity: float | None = None,
        pattern: Pattern = UNSTRUCTURED,
        factor: Factor | None = None,
    ) -> Pruned: ...


class Quantizer(Protocol):
    """A quantisation method; ``mask`` (True = kept) holds pruned weights at exactly zero."""

    def __call__(
        self,
        weight: Tensor,
        gram: Gram | None,
        *,
        grid: Grid,
        scale_dtype: torch.dtype = torch.float32,
        mask: Tensor | None = None,
        factor: Factor | None = None,
    ) -> Quantized: ...


PRUNERS: Mapping[str, Pruner] = MappingProxyType(
    {"magnitude": prune_magnitude, "wanda": prune_wanda, "sparsegpt": prune_sparsegpt}
)

QUANTIZERS: Mapping[str, Quantizer] = MappingProxyType(
    {"rtn": quantize_round_to_nearest, "gptq": quantize_gptq}
)

# Methods that work from the Factor of a Gram: worth making once for layers that share an input.
USES_FACTOR = frozenset({"sparsegpt", "gptq"})
