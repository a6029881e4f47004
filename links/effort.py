"""How much work links expect, in block passes: what their forecasts have in common."""

from __future__ import annotations

from typing import Any

import torch

from ..checkpoints import Checkpoint
from ..models.linears import Linear
from ..models.outline import Outlined
from ..models.skeleton import text_config
from ..texts import Windows


def num_blocks(checkpoint: Checkpoint) -> int:
    """How many decoder blocks the model has."""
    said = checkpoint.config.get("num_hidden_layers")  # as most configs do, and no model is built
    return int(text_config(checkpoint).num_hidden_layers if said is None else said)


def rewriting(
    checkpoint: Checkpoint, windows: Windows, *, paired: bool, solves: float
) -> dict[str, Any]:
    """The work of one pass that replaces weights: see `models.rewriting`.

    Args:
        solves: what the solver takes of a block, in factorisations of its Hessians.
    """
    blocks = num_blocks(checkpoint)
    runs = blocks * windows.num_windows
    return {
        "block_passes": runs * (3 if paired else 2),
        "gram_passes": runs * (2 if paired else 1),
        "head_passes": 4,
        "solves": blocks * solves,
        "moved_bytes": 2 * checkpoint.num_bytes,
    }


def outlined_windows(num: int, length: int, name: str, first: int) -> Windows:
    """Windows nobody has read yet, whose ids tell them apart, from ``first`` on."""
    tokens = torch.arange(first, first + num * length).reshape(num, length)
    return Windows(tokens, name)


def remade(checkpoint: Checkpoint, linears: list[Linear]) -> dict[str, Outlined]:
    """The linears' tensors as new ones in memory."""
    refs = {linear.tensor: checkpoint.refs[linear.tensor] for linear in linears}
    return {name: Outlined(ref.shape, ref.dtype, held=True) for name, ref in refs.items()}
