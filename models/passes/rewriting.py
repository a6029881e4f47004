"""One pass over the blocks that replaces weights, each block on the outputs of replaced ones.

For each block:
1. run the calibration batches and accumulate one Gram matrix per distinct input;
2. solve: pass weights and Gram matrix to the solver;
3. put the solutions into the block;
4. optionally refine the block as a whole (block tuning);
5. run the batches again, so that the next block is solved for the inputs it will receive.

On several ranks each runs its part of the batches and solves its part of the linears; it receives
the Gram matrices and the solutions of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...checkpoints import Checkpoint, GgmlBlocks, Quantized, TensorRef, ranks
from ...solvers.gram import Gram, GramAccumulator
from ...texts import Windows
from ..blocks.linears import Linear, linears_by_block
from ..blocks.products import in_pass
from ..blocks.replay import Call, capture, replay
from ..blocks.skeleton import Skeleton
from .experts import Fellows
from .inputs import Group, sum_inputs
from .resuming import PassState, Resuming

Solution = Tensor | Quantized | GgmlBlocks
Solve = Callable[[Sequence[tuple[Linear, Tensor]], Gram], Mapping[Linear, Solution]]


@dataclass(frozen=True)
class Solved:
    """A block that computes with its solutions; nothing in here may be changed in place.

    Attributes:
        block: the block, computing with the solutions.
        prefix: path of the block in the model, with a trailing dot.
        solutions: what the solver returned.
        weights: previous weight of each linear, ``[out_features, in_features]``, compute dtype.
        inputs: per batch, the output of the replaced blocks before it
            ``[batch, length, hidden_size]``.
        calls: per batch, the other arguments of the block.
        block_outputs: per batch, the output of the original block on ``inputs``.
        given_outputs: per batch, the output of this block in the original model; None unless the
            pass is paired.
    """

    block: nn.Module
    prefix: str
    solutions: Mapping[Linear, Solution]
    weights: Mapping[Linear, Tensor]
    inputs: Sequence[Tensor]
    calls: Sequence[Call]
    block_outputs: Sequence[Tensor]
    given_outputs: Sequence[Tensor] | None


Refine = Callable[[Solved], Mapping[Linear, Solution]]


def rewrite_blocks(
    checkpoint: Checkpoint,
    windows: Windows,
    solve: Solve,
    *,
    chosen: Callable[[Linear], bool] = lambda linear: True,
    batch_size: int,
    paired: bool = False,
    refine: Refine | None = None,
    resuming: Resuming | None = None,
    announce: Callable[[int, int], None],
) -> dict[str, Tensor | TensorRef]:
    """Solve every chosen linear of every block; returns the new tensors for `Checkpoint.evolve`.

    Args:
        solve: receives the linears on one input, with their weights ``[out_features,
            in_features]`` in the compute dtype, and the Gram matrix of that input. Returns the new
            weight of each linear, or its quantised weight: for all experts of a tensor or for none.
        paired: whether Gram matrices also hold the cross products with the original model's inputs
            (``cross``). Costs a third run of every block and twice the hidden states.
        refine: called once a block is solved; returns the solutions to exchange.
        resuming: stores the progress of the pass and restores it; whatever ``solve`` and
            ``refine`` record must be among its notes.
        announce: receives the number of finished blocks and their total.

    Raises:
        DataError: a linear received too few tokens, or no expert of a kind received any.
        NumericsError: NaN or infinity in a block's output.
    """
    skeleton = Skeleton(checkpoint)
    batches = capture(skeleton, ranks.share(windows.tokens).split(batch_size))
    hidden = [batch.hidden for batch in batches]
    begin = PassState(0, hidden, list(hidden) if paired else None, {})
    stopped = resuming and resuming.load(skeleton.rest, len(batches))
    begin = stopped.of_rank(hidden) if stopped else begin
    hidden, rewritten = list(begin.hidden), dict(begin.rewritten)
    given = None if begin.given is None else list(begin.given)
    last, by_block = len(skeleton.blocks) - 1, linears_by_block(checkpoint)
    for index, block in skeleton.each_block(begin.index):
        prefix = f"{skeleton.path}.{index}."
        linears = [linear for linear in by_block[index] if chosen(linear)]
        calls = [batch.calls[index] for batch in batches]
        groups, hidden_out = sum_inputs(
            block, prefix, linears, hidden, calls, GramAccumulator, given
        )
        weights = {linear: _weight(skeleton, linear) for linear in linears}
        solutions = _solve(groups, weights, solve)
        if resuming is not None:
            resuming.exchange()
        fresh = _put(skeleton, solutions)
        if refine is not None and solutions:
            solved = Solved(block, prefix, solutions, weights, hidden, calls, hidden_out, given)
            fresh = _put(skeleton, {**solutions, **refine(solved)})
        rewritten.update(fresh if resuming is None else resuming.kept(fresh))
        if fresh and index < last:
            with torch.no_grad(), in_pass(skeleton.device):
                hidden_out = [replay(block, h, c) for h, c in zip(hidden, calls, strict=True)]
        hidden = hidden_out
        if resuming is not None and index < last:
            resuming.save(PassState(index + 1, hidden, given, rewritten))
        announce(index + 1, len(skeleton.blocks))
    return rewritten


def _weight(skeleton: Skeleton, linear: Linear) -> Tensor:
    return linear.view(skeleton.model.get_parameter(linear.tensor).detach())


def _solve(
    groups: list[Group[GramAccumulator]], weights: Mapping[Linear, Tensor], solve: Solve
) -> dict[Linear, Solution]:
    """Solve group by group, each on one rank, freeing each statistic after use."""
    fellows = Fellows(groups)
    left = dict(enumerate(reversed(groups)))
    groups.clear()

    def solved(place: int) -> Mapping[Linear, Solution]:
        group = left.pop(place)
        here = [(linear, weights[linear].contiguous()) for linear in group.linears]
        return solve(here, fellows.gram(group))

    found = ranks.divided([_cost(group.linears) for group in left.values()], solved)
    return {linear: solution for each in found for linear, solution in each.items()}


def _cost(linears: Sequence[Linear]) -> float:
    """What solving linears on one input costs, relative to others: rows times columns squared."""
    rows, columns = sum(linear.shape[0] for linear in linears), linears[0].shape[1]
    return (rows + columns / 3) * columns**2  # the second term is the factorisation


def _put(skeleton: Skeleton, solutions: Mapping[Linear, Solution]) -> dict[str, Tensor | TensorRef]:
    """Put solutions into their block; returns them as tensors by name."""
    fresh = as_tensors(skeleton.checkpoint, solutions)
    for name, value in fresh.items():
        skeleton.put(name, value)
    return fresh


def as_tensors(
    checkpoint: Checkpoint, solutions: Mapping[Linear, Solution]
) -> dict[str, Tensor | TensorRef]:
    """Solutions as stored tensors: transposed where stored so, experts stacked, dtype kept."""
    fresh: dict[str, Tensor | TensorRef] = {}
    experts: dict[str, dict[int, Quantized]] = {}
    for linear, solution in solutions.items():
        if isinstance(solution, Quantized) and linear.expert is not None:
            experts.setdefault(linear.tensor, {})[linear.expert] = solution
            continue
        if isinstance(solution, Quantized | GgmlBlocks):
            fresh[linear.tensor] = solution
            continue
        whole = fresh.get(linear.tensor)
        if not isinstance(whole, Tensor):
            whole = fresh[linear.tensor] = checkpoint.tensors[linear.tensor].clone()
        linear.view(whole).copy_(solution)
    return {**fresh, **{name: _in_one(each) for name, each in experts.items()}}


def _in_one(experts: Mapping[int, Quantized]) -> Quantized:
    """The weights of all experts, by index, as one ``[experts, out_features, in_features]``."""
    parts = [experts[index].parts() for index in range(len(experts))]
    codes, scales = (torch.stack([each[part] for each in parts]) for part in ("codes", "scales"))
    return experts[0].with_values(codes, scales)
