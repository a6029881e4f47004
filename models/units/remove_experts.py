"""Remove the least important experts of a mixture-of-experts model.

The importance of an expert is the squared change of the block's output when the expert outputs
zero. It combines how often tokens are routed to the expert, the router weight, and the size of its
output
(REAP, https://arxiv.org/abs/2510.13999, multiplies the same three). It is measured on the inputs of
the block in the original model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...checkpoints import Checkpoint
from ...errors import ModelError
from ..blocks.linears import Linear, find_linears
from ..blocks.observing import ProductObserver, stored_tensors
from ..blocks.replay import Call, capture, check_finite, replay, with_parameters
from ..blocks.skeleton import Skeleton
from ..passes.resuming import PassState, Resuming
from .narrowing import Part, Resizing


@dataclass
class ExpertChoice:
    """The remaining experts of each finished block, for resuming."""

    kept: list[list[int]] = field(default_factory=list)

    def facts(self) -> list[list[int]]:
        """The choice so far."""
        return self.kept

    def recall(self, facts: list[list[int]]) -> None:
        """Restore an interrupted choice."""
        self.kept = [list(each) for each in facts]


@torch.no_grad()
def choose_experts(
    skeleton: Skeleton,
    tokens: Tensor,
    change: Resizing,
    announce: Callable[[int, int], None],
    choice: ExpertChoice | None = None,
    resuming: Resuming | None = None,
) -> list[Tensor]:
    """The remaining experts of each block, int64 ascending: the most important ones.

    Args:
        tokens: int64 ``[windows, length]`` to measure on, as one batch.
        announce: receives the number of finished blocks and their total; a block runs once for
            every expert that receives tokens.
        choice: records the choice.
        resuming: stores the progress of the pass and restores it; ``choice`` must be among its
            notes.
    """
    choice = ExpertChoice() if choice is None else choice
    batch = capture(skeleton, [tokens])[0]
    begin = PassState(0, [batch.hidden], None, {})
    begin = (resuming and resuming.load(skeleton.rest, 1)) or begin
    (hidden,) = begin.hidden
    last = len(skeleton.blocks) - 1
    for index, block in skeleton.each_block(begin.index):
        loads, hidden = _loads(block, hidden, batch.calls[index], change)
        check_finite([hidden], f"{skeleton.path}.{index}")
        choice.kept.append(loads.topk(change.after).indices.sort().values.tolist())
        if resuming is not None and index < last:
            resuming.save(PassState(index + 1, [hidden], None, {}))
        announce(index + 1, len(skeleton.blocks))
    return [torch.tensor(each) for each in choice.kept]


def keep_experts(checkpoint: Checkpoint, change: Resizing, kept: Sequence[Tensor]) -> Checkpoint:
    """The model with only these experts, and routers cut to match."""
    skeleton = Skeleton(checkpoint)
    fresh = {}
    for index, experts in enumerate(kept):
        for part in change.parts:
            name = f"{skeleton.path}.{index}.{part.tensor}"
            fresh[name] = checkpoint.tensors[name].index_select(part.axis, experts.cpu())
    smaller = checkpoint.evolve(fresh, config=change.config)
    Skeleton(smaller)  # checks the tensors against the new config
    return smaller


def _loads(block: nn.Module, hidden: Tensor, call: Call, change: Resizing) -> tuple[Tensor, Tensor]:
    """The importance of each expert, float64 ``[experts]``, and the block's output."""
    stored = stored_tensors(block, "")
    experts = [each for each in find_linears(block, "") if each.expert is not None]
    used: set[int] = set()

    def see(linear: Linear, inputs: Tensor) -> None:
        if inputs.numel() and linear.expert is not None:
            used.add(linear.expert)

    with ProductObserver(stored, experts, see):
        output = replay(block, hidden, call)
    silent = {part.tensor: stored[part.tensor].clone() for part in _of_experts(experts, change)}
    loads = torch.zeros(change.before, dtype=torch.float64)
    for expert in sorted(used):
        for tensor in silent.values():
            tensor[expert] = 0.0
        states = replay(with_parameters(block, silent), hidden, call)
        loads[expert] = float((states - output).square().sum(dtype=torch.float64))
        for name, tensor in silent.items():
            tensor[expert] = stored[name][expert]
    return loads, output


def _of_experts(experts: Sequence[Linear], change: Resizing) -> list[Part]:
    """The parts of the experts, without the router's."""
    modules = {each.tensor.rpartition(".")[0] for each in experts}
    found = [part for part in change.parts if part.tensor.rpartition(".")[0] in modules]
    if not found or any(part.axis or part.size != change.before for part in change.parts):
        raise ModelError(
            "experts are not stacked along the first axis of their own tensors; only such experts "
            "can be removed"
        )
    return found
