"""Single linears with weights and inputs, for tests of what a pass over blocks asks a solver."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from birdbone.models.blocks.linears import Linear
from birdbone.solvers.gram import Gram


@dataclass(frozen=True, eq=False)
class Inputs:
    """Correlated inputs ``[tokens, width]``, and their Gram matrix."""

    rows: Tensor
    gram: Gram

    def error(self, weight: Tensor, other: Tensor) -> float:
        """Squared difference of two weights' outputs, relative to the output of the first."""
        left = (self.rows @ (other - weight).T).double().square().sum()
        return float(left / (self.rows @ weight.T).double().square().sum())


def inputs(width: int = 32, tokens: int = 256, *, seed: int = 0, borrowed: int = 0) -> Inputs:
    """Inputs from a local generator; the Gram matrix is marked as partly of other experts."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) / width**0.5 + torch.eye(width)
    rows = torch.randn(tokens, width, generator=generator) @ mixing
    return Inputs(rows, Gram(rows.T @ rows, tokens, num_borrowed=borrowed))


def weight(height: int = 16, width: int = 32, *, seed: int = 0) -> Tensor:
    """A weight ``[height, width]`` from a local generator."""
    return torch.randn(height, width, generator=torch.Generator().manual_seed(seed))


def linear(name: str, height: int = 16, width: int = 32, *, expert: int | None = None) -> Linear:
    """An ``nn.Linear`` of a block, or one expert of a tensor of several."""
    return Linear(f"{name}.weight", (height, width), expert=expert, plain=expert is None)
