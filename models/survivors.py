"""Pruned weights that stay pruned while everything around them learns."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Survivors:
    """Which weights of the parameters given are not zero, and so may change.

    A matrix, or a stack of experts' matrices, that holds zeros was pruned: its zeros stay. Vectors
    are left free, because a bias that begins at zero was never pruned.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._masks: list[tuple[nn.Parameter, Tensor]] = []
        for parameter in parameters:
            mask = parameter.detach() != 0
            if parameter.ndim > 1 and not bool(mask.all()):
                self._masks.append((parameter, mask))

    @torch.no_grad()
    def confine(self) -> None:
        """Clear the gradient of every pruned weight; Adam, which then has no moments, leaves it."""
        for parameter, mask in self._masks:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)
