"""What the output of a linear lacks, summed over batches of its inputs.

Legend: X what flows into a linear of the model as it is being rewritten, D what its output would
have to give beside what it gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...solvers.checks import working_dtype
from ...solvers.gram import Gram, GramAccumulator
from ..blocks.linears import Linear
from ..blocks.observing import Observer, stored_tensors
from ..blocks.replay import Call, replay
from ..passes.experts import Fellows
from ..passes.inputs import Group


@dataclass(frozen=True)
class Fed:
    """A linear, and what flows into it behind blocks already rewritten.

    Attributes:
        weight: ``[out_features, in_features]`` in the compute dtype.
        gram: X'X.
        missing: D'X ``[out_features, in_features]``, where D is what would make the block's output
            that wanted (or the linear's own, where a norm lies between); None where that was not
            measured.
    """

    linear: Linear
    weight: Tensor
    gram: Gram
    missing: Tensor | None


class MissingSum:
    """Sums X'X and D'X over batches that are seen once and not kept."""

    def __init__(self, linear: Linear, weight: Tensor) -> None:
        self._linear, self._weight = linear, weight
        self._total = GramAccumulator(linear.shape[1], weight.device)
        self._missing = torch.zeros(linear.shape, dtype=working_dtype(weight), device=weight.device)

    def add(self, inputs: Tensor, apart: Tensor) -> None:
        """Take in X ``[..., in_features]`` and D ``[..., out_features]`` of the same tokens."""
        self._total.add(inputs)
        rows, cols = self._linear.shape
        self._missing.addmm_(
            apart.reshape(-1, rows).to(self._missing.dtype).T,
            inputs.reshape(-1, cols).to(self._missing.dtype),
        )

    def fed(self) -> Fed:
        """What was summed.

        Raises:
            DataError: over too few tokens.
        """
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
    """What a linear lacks, whose output is added as it is, for its block to give what is wanted.

    Args:
        prefix: the block's path in the model, with its last dot.
        weight: the linear's, as it now is.
        hidden, calls, wanted: per batch, what enters the block, how it is called, and what should
            leave it, ``[batch, length, hidden_size]``.
    """
    total = MissingSum(linear, weight)
    for states, call, meant in zip(hidden, calls, wanted, strict=True):
        inputs, output = run_watched(block, prefix, linear, states, call)
        total.add(inputs, meant - output)
    return total.fed()


def run_watched(
    block: nn.Module, prefix: str, linear: Linear, hidden: Tensor, call: Call
) -> tuple[Tensor, Tensor]:
    """What flows into a linear that sees every token, and the block's output."""
    seen: dict[Linear, Tensor] = {}
    with Observer(stored_tensors(block, prefix), [linear], seen.__setitem__):
        output = replay(block, hidden, call)
    return seen[linear], output
