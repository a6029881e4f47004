"""Parts of every training: learning rate schedule, masks of pruned weights, autocast, result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...checkpoints import TensorRef

_WARMUP_SHARE = 0.1


def cosine(step: int, num_steps: int) -> float:
    """The fraction of the peak learning rate at a step, counted from 0.

    Linear warm-up over a tenth of the steps, then a cosine; never zero, so no step is wasted.
    """
    rising = (step + 1) / max(1, round(_WARMUP_SHARE * num_steps))
    return min(rising, 0.5 * (1 + math.cos(math.pi * step / num_steps)))


class Survivors:
    """Masks of the weights that are not zero, which alone may change.

    A matrix, or a stack of expert matrices, that contains zeros counts as pruned: its zeros stay.
    Vectors are not masked, because a bias initialised to zero was not pruned.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._masks: list[tuple[nn.Parameter, Tensor]] = []
        for parameter in parameters:
            mask = parameter.detach() != 0
            if parameter.ndim > 1 and not bool(mask.all()):
                self._masks.append((parameter, mask))

    @torch.no_grad()
    def confine(self) -> None:
        """Zero the gradient of pruned weights; Adam's moments and the weights then stay zero."""
        for parameter, mask in self._masks:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)


@dataclass(frozen=True)
class Healed:
    """The result of a training.

    Attributes:
        weights: the trained tensors by checkpoint name, in the layout and dtype they are stored in;
            references to those that are on disk.
        steps: optimiser steps.
        trained_parameters: number of trained values.
        curves: losses in order, by name.
    """

    weights: Mapping[str, Tensor | TensorRef]
    steps: int
    trained_parameters: int
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
