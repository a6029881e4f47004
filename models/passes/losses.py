"""Losses of block tuning and healing: relative errors of hidden states, checked to be finite."""

from __future__ import annotations

import math

from torch import Tensor

from ...errors import NumericsError

# Smallest denominator, relative to the mean over tokens: a token of near-zero output must not
# dominate the loss.
_SMALLEST_SHARE = 1e-8


def relative_errors(states: Tensor, wanted: Tensor) -> Tensor:
    """||states - wanted||^2 / ||wanted||^2 per token, float32 ``[batch * length]``.

    Without the division a few tokens with huge activations would dominate the mean.

    Args:
        states, wanted: ``[batch, length, hidden_size]``.
    """
    target = wanted.float()
    squares = target.square().sum(-1)
    errors = (states.float() - target).square().sum(-1)
    return (errors / squares.clamp(min=float(squares.mean()) * _SMALLEST_SHARE)).flatten()


def check_loss(loss: float, when: str, fix: str) -> float:
    """Return the loss if it is finite.

    Raises:
        NumericsError: NaN or infinity; the message says when, and the fix.
    """
    if not math.isfinite(loss):
        raise NumericsError(f"the loss {when} is {loss}; {fix}")
    return loss
