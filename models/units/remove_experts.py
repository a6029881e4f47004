"""Which experts of a mixture carry least, and the model without them.

An expert's load is what its absence does: the squared change of the block's output when it gives
nothing, which weighs how often tokens are sent to it, with what share, and how much it then says
(REAP, https://arxiv.org/abs/2510.13999, multiplies the same three). Loads are measured on what the
model as given feeds a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...checkpoints import Checkpoint
from ...errors import ModelError
from ..blocks.linears import Linear, find_linears
from ..blocks.observing import Observer, stored_tensors
from ..blocks.replay import Call, capture, check_finite, replay
from ..blocks.skeleton import Skeleton
from ..passes.resuming import Resuming, Standing
from .narrowing import Part, Resizing


@dataclass
class ExpertChoice:
    """The experts that stay of each block done so far, for a choice that may be stopped."""

    kept: list[list[int]] = field(default_factory=list)

    def facts(self) -> list[list[int]]:
        """What was chosen so far."""
        return self.kept

    def recall(self, facts: list[list[int]]) -> None:
        """Take up a choice that was stopped."""
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
    """The experts of each block that stay, int64 ascending: those of the greatest load.

    Args:
        tokens: int64 ``[windows, length]`` to measure on; all go through a block at once.
        announce: told blocks done and their count; each runs once for every expert used.
        choice: gathers what is chosen.
        resuming: keeps how far the pass is, and says where to go on; the choice must be among its
            notes.
    """
    choice = ExpertChoice() if choice is None else choice
    batch = capture(skeleton, [tokens])[0]
    begin = Standing(0, [batch.hidden], None, {})
    begin = (resuming and resuming.load(skeleton.device)) or begin
    (hidden,) = begin.hidden
    last = len(skeleton.blocks) - 1
    for index, block in skeleton.each_block(begin.index):
        loads, hidden = _loads(block, hidden, batch.calls[index], change)
        check_finite([hidden], f"{skeleton.path}.{index}")
        choice.kept.append(loads.topk(change.after).indices.sort().values.tolist())
        if resuming is not None and index < last:
            resuming.save(Standing(index + 1, [hidden], None, {}))
        announce(index + 1, len(skeleton.blocks))
    return [torch.tensor(each) for each in choice.kept]


def keep_experts(checkpoint: Checkpoint, change: Resizing, kept: Sequence[Tensor]) -> Checkpoint:
    """The model with those experts alone, its routers cut to match."""
    skeleton = Skeleton(checkpoint)
    fresh = {}
    for index, experts in enumerate(kept):
        for part in change.parts:
            name = f"{skeleton.path}.{index}.{part.tensor}"
            fresh[name] = checkpoint.tensors[name].index_select(part.axis, experts.cpu())
    smaller = checkpoint.evolve(fresh, config=change.config)
    Skeleton(smaller)  # refuses tensors that are not what the config now says
    return smaller


def _loads(block: nn.Module, hidden: Tensor, call: Call, change: Resizing) -> tuple[Tensor, Tensor]:
    """Each expert's load in float64 ``[experts]``, and what the block gives."""
    stored = stored_tensors(block, "")
    experts = [each for each in find_linears(block, "") if each.expert is not None]
    used: set[int] = set()

    def see(linear: Linear, inputs: Tensor) -> None:
        if inputs.numel() and linear.expert is not None:
            used.add(linear.expert)

    with Observer(stored, experts, see):
        output = replay(block, hidden, call)
    silent = {part.tensor: stored[part.tensor].clone() for part in _of_experts(experts, change)}
    loads = torch.zeros(change.before, dtype=torch.float64)
    for expert in sorted(used):
        for tensor in silent.values():
            tensor[expert] = 0.0
        without = functional_call(block, silent, (hidden, *call.args), call.kwargs)
        states = without[0] if isinstance(without, tuple) else without
        loads[expert] = float((states - output).square().sum(dtype=torch.float64))
        for name, tensor in silent.items():
            tensor[expert] = stored[name][expert]
    return loads, output


def _of_experts(experts: Sequence[Linear], change: Resizing) -> list[Part]:
    """The parts that are experts' own, not the router's."""
    modules = {each.tensor.rpartition(".")[0] for each in experts}
    found = [part for part in change.parts if part.tensor.rpartition(".")[0] in modules]
    if not found or any(part.axis or part.size != change.before for part in change.parts):
        raise ModelError(
            "experts are not held one after another in tensors of their own; only such can go"
        )
    return found
