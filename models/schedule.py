"""How far each step of a training goes: a warm-up, then a cosine."""

from __future__ import annotations

import math

_WARMUP_SHARE = 0.1


def cosine(step: int, num_steps: int) -> float:
    """The share of the learning rate at a step, counted from 0.

    Risen to in a tenth of the steps, falling to almost nothing; never zero, so no step is idle.
    """
    rising = (step + 1) / max(1, round(_WARMUP_SHARE * num_steps))
    return min(rising, 0.5 * (1 + math.cos(math.pi * step / num_steps)))
