"""Which experts of a mixture carry least, and the model without them.

An expert's load is what its absence does: the squared change of the block's output when it gives
nothing, which weighs how often tokens are sent to it, with what share, and how much it then says
(REAP, https://arxiv.org/abs/2510.13999, multiplies the same three). Loads are measured on what the
model as given feeds a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..checkpoints import Checkpoint
from ..errors import ModelError
from .linears import Linear, find_linears
from .narrowing import Part, Resizing
from .observing import Observer, stored_tensors
from .replay import Call, capture, check_finite, replay
from .skeleton import Skeleton


@torch.no_grad()
def choose_experts(
    skeleton: Skeleton,
    tokens: Tensor,
    change: Resizing,
    announce: Callable[[int, int], None],
) -> list[Tensor]:
    """The experts of each block that stay, int64 ascending: those of the greatest load.

    Args:
        tokens: int64 ``[windows, length]`` to measure on; all go through a block at once.
        announce: told blocks done and their count; each runs once for every expert used.
    """
    batch = capture(skeleton, [tokens])[0]
    hidden, kept = batch.hidden, []
    for index, block in skeleton.each_block():
        loads, hidden = _loads(block, hidden, batch.calls[index], change)
        check_finite([hidden], f"{skeleton.path}.{index}")
        kept.append(loads.topk(change.after).indices.sort().values)
        announce(index + 1, len(skeleton.blocks))
    return kept


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
