"""How far each step of a training goes: a warm-up, then a cosine."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

_WARMUP_SHARE = 0.1


def cosine(optimizer: Optimizer, num_steps: int) -> LambdaLR:
    """The optimiser's learning rate, risen to in a tenth of the steps, falling to almost nothing.

    It is never zero, so that no step is idle.
    """
    return LambdaLR(optimizer, lambda step: _share(step, num_steps))


def _share(step: int, num_steps: int) -> float:
    rising = (step + 1) / max(1, round(_WARMUP_SHARE * num_steps))
    return min(rising, 0.5 * (1 + math.cos(math.pi * step / num_steps)))
