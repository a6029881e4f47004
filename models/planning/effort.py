"""Work estimates shared by links, in units of `timing.BlockTimes`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...checkpoints import Checkpoint
from ...texts import Windows
from ..blocks.empty_model import text_config
from ..blocks.linears import Linear
from .outline import Outlined

GRADIENT_PASSES = 3
"""Forward passes that the gradients of a window take: one, and twice the work backward."""


@dataclass(frozen=True)
class SolverWork:
    """Work of a method on one block's linears, in the units of `Forecast`.

    Fitted on one thread to widths from 576 to 4096; accurate to a factor of about 1.5.
    """

    solves: float
    products: float

    def and_more(self, times: int, other: SolverWork) -> SolverWork:
        """This work plus ``times`` the other."""
        return SolverWork(
            self.solves + times * other.solves, self.products + times * other.products
        )


def num_blocks(checkpoint: Checkpoint) -> int:
    """Number of decoder blocks."""
    stated = checkpoint.config.get("num_hidden_layers")  # as most configs do, and no model is built
    return int(text_config(checkpoint).num_hidden_layers if stated is None else stated)


def rewriting(
    checkpoint: Checkpoint, windows: Windows, *, paired: bool, solver: SolverWork
) -> dict[str, Any]:
    """The work of one pass that replaces weights (`passes.rewriting`), by field of `Forecast`.

    Args:
        solver: work of the solver on one block.
    """
    blocks = num_blocks(checkpoint)
    runs = blocks * windows.num_windows
    return {
        "block_passes": runs * (3 if paired else 2),
        "gram_passes": runs * (2 if paired else 1),
        "head_passes": 4,
        "solves": blocks * solver.solves,
        "products": blocks * solver.products,
        "moved_bytes": 2 * checkpoint.num_bytes,
    }


def outlined_windows(num: int, length: int, name: str, first: int) -> Windows:
    """Stand-ins for windows that are not read yet; token ids count up from ``first``."""
    tokens = torch.arange(first, first + num * length).reshape(num, length)
    return Windows(tokens, name)


def remade(checkpoint: Checkpoint, linears: list[Linear]) -> dict[str, Outlined]:
    """The tensors of the linears as new tensors in memory, without values."""
    refs = {linear.tensor: checkpoint.refs[linear.tensor] for linear in linears}
    return {name: Outlined(ref.shape, ref.dtype, held=True) for name, ref in refs.items()}
