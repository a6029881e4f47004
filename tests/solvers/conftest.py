"""Small layers with correlated inputs, the same for every test of the solvers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from birdbone.solvers.gram import Gram


@dataclass(frozen=True, eq=False)
class Layer:
    """A weight [rows, cols], inputs [tokens, cols], and their Gram, all of one dtype."""

    weight: Tensor
    inputs: Tensor
    gram: Gram


MakeLayer = Callable[..., Layer]


@pytest.fixture(scope="session")
def make_layer() -> MakeLayer:
    def make(
        rows: int = 8,
        cols: int = 8,
        *,
        tokens: int = 64,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> Layer:
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(rows, cols, generator=generator, dtype=torch.float64)
        inputs = torch.randn(tokens, cols, generator=generator, dtype=torch.float64)
        mixing = torch.randn(cols, cols, generator=generator, dtype=torch.float64)
        inputs = inputs @ (mixing / cols**0.5 + torch.eye(cols, dtype=torch.float64))
        weight, inputs = weight.to(dtype), inputs.to(dtype)
        return Layer(weight, inputs, Gram(inputs.T @ inputs, tokens))

    return make
