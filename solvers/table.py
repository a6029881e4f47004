"""The tables of solvers: adding a method is adding a row, and every property test runs over it."""

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

    ``factor`` is what `PREPARE` makes of the Gram for it, given to share the making among layers on
    one input; ``heights`` are the rows of each layer where such layers are stacked into one weight;
    ``matching`` is the share of `pull_of` that methods take which solve for values.
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
    """Turns a Gram into what a method works from."""

    def __call__(self, gram: Gram, *, damping: float) -> Any: ...


class Quantizer(Protocol):
    """A quantisation method; ``mask`` (True = kept) holds pruned weights at exactly zero.

    ``matching`` is the share of `pull_of` that methods take which look at inputs.
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


PRUNERS: Mapping[str, Pruner] = MappingProxyType(
    {
        "magnitude": prune_magnitude,
        "wanda": prune_wanda,
        "sparsegpt": prune_sparsegpt,
        "admm": prune_admm,
        "alps": prune_alps,
    }
)

QUANTIZERS: Mapping[str, Quantizer] = MappingProxyType(
    {"rtn": quantize_round_to_nearest, "gptq": quantize_gptq}
)

# What a method works from beside the Gram: made once for all layers that share an input.
PREPARE: Mapping[str, Prepare] = MappingProxyType(
    {
        "sparsegpt": factorize,
        "admm": resolve,
        "alps": decompose,
        "gptq": partial(factorize, descending=True),
    }
)
