"""How far each step of a training goes: a warm-up, then a cosine.

Pruned weights that stay pruned while everything around them learns.

What products are computed in while weights stay float32.

What a training of a light model leaves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_WARMUP_SHARE = 0.1


def cosine(step: int, num_steps: int) -> float:
    """The share of the learning rate at a step, counted from 0.

    Risen to in a tenth of the steps, falling to almost nothing; never zero, so no step is idle.
    """
    rising = (step + 1) / max(1, round(_WARMUP_SHARE * num_steps))
    return min(rising, 0.5 * (1 + math.cos(math.pi * step / num_steps)))


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


def computed_in(dtype: torch.dtype | None, device: torch.device) -> torch.autocast:
    """The context in which products on a device are of a narrower dtype; None for their own."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@dataclass(frozen=True)
class Healed:
    """What training led to.

    Attributes:
        weights: what was trained, by checkpoint name, each laid out and in the dtype as stored.
        steps: of the optimiser.
        trained_parameters: values that could move.
        curves: losses in the order they came, by name.
    """

    weights: Mapping[str, Tensor]
    steps: int
    trained_parameters: int
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
