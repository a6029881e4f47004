"""One pass over the blocks that replaces weights, each block seeing what the new prefix feeds it.

Per block: run the calibration batches and sum what flows into each distinct input; hand weights
and Gram to the solver; put what it returns into the block; run the batches again, so that the next
block is solved for the inputs it will really get.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..checkpoints import Checkpoint, Quantized, TensorRef
from ..solvers.gram import Gram, GramAccumulator
from ..texts import Windows
from .inputs import sum_inputs
from .linears import Linear, find_linears
from .replay import capture, replay
from .skeleton import Skeleton

Solution = Tensor | Quantized
Solve = Callable[[Sequence[tuple[Linear, Tensor]], Gram], Mapping[Linear, Solution]]


def rewrite_blocks(
    checkpoint: Checkpoint,
    windows: Windows,
    solve: Solve,
    *,
    chosen: Callable[[Linear], bool] = lambda linear: True,
    batch_size: int,
    announce: Callable[[int, int], None],
) -> dict[str, Tensor | TensorRef]:
    """Solve every chosen linear of every block in turn; returns what to `evolve` with.

    Args:
        solve: given linears on one input, with their weights ``[out_features, in_features]`` in
            the compute dtype, and the Gram of that input; returns each linear's new weight, or
            its codes where a linear is a whole tensor.
        announce: told blocks done and their count.

    Raises:
        DataError: a linear saw no tokens.
        NumericsError: NaN or infinity in a block's output.
    """
    skeleton = Skeleton(checkpoint)
    batches = capture(skeleton, windows.tokens.split(batch_size))
    hidden = [batch.hidden for batch in batches]
    rewritten: dict[str, Tensor | TensorRef] = {}
    last = len(skeleton.blocks) - 1
    for index, block in skeleton.each_block():
        prefix = f"{skeleton.path}.{index}."
        linears = [linear for linear in find_linears(block, prefix) if chosen(linear)]
        calls = [batch.calls[index] for batch in batches]
        groups, hidden_out = sum_inputs(block, prefix, linears, hidden, calls, GramAccumulator)
        solutions: dict[Linear, Solution] = {}
        while groups:
            group = groups.pop()
            weights = [(linear, _weight(skeleton, linear)) for linear in group.linears]
            solutions.update(solve(weights, group.sum.gram()))
        fresh = _as_tensors(checkpoint, solutions)
        rewritten.update(fresh)
        for name, value in fresh.items():
            skeleton.put(name, value)
        if fresh and index < last:
            with torch.no_grad():
                hidden_out = [replay(block, h, c) for h, c in zip(hidden, calls, strict=True)]
        hidden = hidden_out
        announce(index + 1, len(skeleton.blocks))
    return rewritten


def _weight(skeleton: Skeleton, linear: Linear) -> Tensor:
    return linear.view(skeleton.model.get_parameter(linear.tensor).detach()).contiguous()


def _as_tensors(
    checkpoint: Checkpoint, solutions: Mapping[Linear, Solution]
) -> dict[str, Tensor | TensorRef]:
    """Solutions gathered into whole tensors as stored: transposed, experts stacked, dtype kept."""
    fresh: dict[str, Tensor | TensorRef] = {}
    for linear, solution in solutions.items():
        if isinstance(solution, Quantized):
            fresh[linear.tensor] = solution
            continue
        whole = fresh.get(linear.tensor)
        if not isinstance(whole, Tensor):
            whole = fresh[linear.tensor] = checkpoint.tensors[linear.tensor].clone()
        linear.view(whole).copy_(solution)
    return fresh
