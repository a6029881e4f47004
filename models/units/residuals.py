"""Cross products of a linear's inputs with its residual, accumulated over batches.

Notation: X are the inputs of a linear in the model being compressed, ``[tokens, in_features]``; D
is the residual, target output minus current output, ``[tokens, out_features]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...checkpoints import ranks
from ...solvers.checks import working_dtype
from ...solvers.gram import Gram, GramAccumulator
from ..blocks.linears import Linear
from ..blocks.observing import ProductObserver, stored_tensors
from ..blocks.replay import Call, replay
from ..passes.experts import Fellows
from ..passes.inputs import Group


@dataclass(frozen=True)
class Fed:
    """A linear with the statistics of its inputs after the blocks changed so far.

    Attributes:
        weight: ``[out_features, in_features]``, compute dtype.
        gram: X'X ``[in_features, in_features]``.
        missing: D'X ``[out_features, in_features]``. The target is that of the block's output, or
            of the linear's own output if a norm follows. None if it was not measured.
    """

    linear: Linear
    weight: Tensor
    gram: Gram
    missing: Tensor | None


class MissingSum:
    """Accumulates X'X and D'X over batches."""

    def __init__(self, linear: Linear, weight: Tensor) -> None:
        self._linear, self._weight = linear, weight
        self._total = GramAccumulator(linear.shape[1], weight.device)
        self._missing = torch.zeros(linear.shape, dtype=working_dtype(weight), device=weight.device)

    def add(self, inputs: Tensor, apart: Tensor) -> None:
        """Add X ``[..., in_features]`` and D ``[..., out_features]`` of the same tokens."""
        self._total.add(inputs)
        rows, cols = self._linear.shape
        self._missing.addmm_(
            apart.reshape(-1, rows).to(self._missing.device, self._missing.dtype).T,
            inputs.reshape(-1, cols).to(self._missing.dtype),
        )

    def fed(self) -> Fed:
        """The accumulated statistics, of all ranks.

        Raises:
            DataError: too few tokens.
        """
        self._total.join(ranks.total)
        self._missing = ranks.total(self._missing)
        group = Group([self._linear], self._total)
        return Fed(self._linear, self._weight, Fellows([group]).gram(group), self._missing)


@torch.no_grad()
def lacking(
    block: nn.Module,
    prefix: str,
    linear: Linear,
    weight: Tensor,
    hidden: Sequence[Tensor],
    calls: Sequence[Call],
    wanted: Sequence[Tensor],
) -> Fed:
    """Statistics of a linear whose output is added directly, with the residual of its block.

    Args:
        prefix: path of the block in the model, with a trailing dot.
        weight: the linear's present weight, ``[out_features, in_features]``.
        hidden, calls, wanted: per batch, the block's input, its other arguments, and its target
            output, ``[batch, length, hidden_size]``.
    """
    total = MissingSum(linear, weight)
    for states, call, meant in zip(hidden, calls, wanted, strict=True):
        inputs, output = run_watched(block, prefix, linear, states, call)
        total.add(inputs, meant - output)
    return total.fed()


def run_watched(
    block: nn.Module, prefix: str, linear: Linear, hidden: Tensor, call: Call
) -> tuple[Tensor, Tensor]:
    """The inputs of a linear that receives every token, and the block's output."""
    seen: dict[Linear, Tensor] = {}
    with ProductObserver(stored_tensors(block, prefix), [linear], seen.__setitem__):
        output = replay(block, hidden, call)
    return seen[linear], output
