"""What training is judged by: errors of hidden states, and losses that must be finite."""

from __future__ import annotations

import math

from torch import Tensor

from ...errors import NumericsError

# Of the mean square of all tokens; a token of next to no output must not own the loss.
_SMALLEST_SHARE = 1e-8


def relative_errors(states: Tensor, wanted: Tensor) -> Tensor:
    """Each token's squared error over that token's square, float32 ``[batch * length]``.

    Without the division a few tokens of huge activations would own the mean.

    Args:
        states, wanted: ``[batch, length, hidden_size]``.
    """
    target = wanted.float()
    squares = target.square().sum(-1)
    errors = (states.float() - target).square().sum(-1)
    return (errors / squares.clamp(min=float(squares.mean()) * _SMALLEST_SHARE)).flatten()


def check_loss(loss: float, when: str, mend: str) -> float:
    """The loss, if it is a number.

    Raises:
        NumericsError: NaN or infinity, with when it came and what to do about it.
    """
    if not math.isfinite(loss):
        raise NumericsError(f"the loss {when} is {loss}; {mend}")
    return loss
