"""Amount of calibration text: tokens per input of the widest linear."""

from __future__ import annotations

from ...checkpoints import Checkpoint
from ...models.blocks.linears import all_linears

TOKENS_PER_INPUT = 20
"""Minimum without a warning. The Hessian of a linear, [in_features, in_features], is estimated from
the tokens; structured removal and matching, which solve for whole groups of columns, need more
than rounding."""

_FEWEST_WINDOWS = 64
_MOST_TOKENS = 262_144  # 128 windows of 2048, which GPTQ (2210.17323) and its successors use


def widest_input(checkpoint: Checkpoint) -> int:
    """Return the maximum `in_features` of the linears in the model's blocks."""
    return max((linear.shape[1] for linear in all_linears(checkpoint)), default=1)


def default_windows(width: int, length: int) -> int:
    """Return the windows for 20 tokens per input: at least 64, else at most 262 144 tokens."""
    enough = -(-TOKENS_PER_INPUT * width // length)
    return max(_FEWEST_WINDOWS, min(enough, _MOST_TOKENS // length))


def shortage(num_tokens: int, width: int, length: int) -> str | None:
    """Describe a shortage of calibration tokens; None if there are enough."""
    if num_tokens >= TOKENS_PER_INPUT * width:
        return None
    return (
        f"{num_tokens} calibration tokens are {num_tokens / width:.1f} tokens per input width of "
        f"the widest linear ({width} inputs), fewer than {TOKENS_PER_INPUT}; set windows to "
        f"{-(-TOKENS_PER_INPUT * width // length)} or more"
    )
