"""One pass that removes units from every block, each block on the outputs of the pruned ones.

During the pass, removed units are zero columns of the output linear, which has the same effect as
their removal; the tensors of finished blocks are cut to size. At the end the smaller model is built
and run, and its hidden states must equal those of the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...checkpoints import Checkpoint, ranks
from ...errors import ModelError
from ...solvers.gram import GramAccumulator
from ...texts import Windows
from ..blocks.linears import Linear, find_linears
from ..blocks.replay import Batch, Call, capture, check_finite, replay, through_blocks
from ..blocks.skeleton import Skeleton
from ..passes.experts import Fellows
from ..passes.inputs import sum_inputs
from ..passes.resuming import PassState, Resuming
from .layout import Units, measure_units, plain_output
from .narrowing import Narrowing, Part
from .residuals import Fed, MissingSum, lacking, run_watched

# Largest median relative difference of hidden states per token; a wrong layout differs by about 1.
_SAME = {torch.float32: 1e-3, torch.float64: 1e-6}
_SAME_IN_HALF = 5e-2


@dataclass(frozen=True)
class Kept:
    """The remaining units of one output linear, int64 ascending, and its weight, zero elsewhere."""

    units: Tensor
    weight: Tensor


def hollow_blocks(
    checkpoint: Checkpoint,
    windows: Windows,
    change: Narrowing,
    choose: Callable[[Fed], Kept],
    *,
    batch_size: int,
    matched: bool,
    announce: Callable[[int, int], None],
    correct: Callable[[Fed], Tensor] | None = None,
    resuming: Resuming | None = None,
) -> Checkpoint:
    """Remove the units of every block that ``choose`` does not keep; returns the smaller model.

    Args:
        choose: receives each block's output linear, or that of each expert; returns what to keep.
        matched: measure the residual against the original model; costs a third run of every block.
        announce: receives the number of finished blocks and their total.
        correct: in a matched pass over units other than neurons, returns a new weight for the
            linear after the neurons of each block, which corrects the remaining residual.
        resuming: stores the progress of the pass and restores it; whatever ``choose`` and
            ``correct`` record must be among its notes.

    Raises:
        DataError: a linear received too few tokens.
        ModelError: the units are coupled, or the smaller model does not compute the same.
        NumericsError: NaN or infinity in a block's output.
    """
    skeleton = Skeleton(checkpoint)
    units = measure_units(skeleton, change)
    batches = capture(skeleton, ranks.share(windows.tokens).split(batch_size))
    hidden = [batch.hidden for batch in batches]
    begin = PassState(0, hidden, list(hidden) if matched else None, {})
    stopped = resuming and resuming.load(skeleton.rest, len(batches))
    begin = stopped.of_rank(hidden) if stopped else begin
    hidden, cut = list(begin.hidden), dict(begin.rewritten)
    given = None if begin.given is None else list(begin.given)
    behind = None if correct is None or change.kind == "neurons" else plain_output(skeleton)
    last = len(skeleton.blocks) - 1
    for index, block in skeleton.each_block(begin.index):
        prefix = f"{skeleton.path}.{index}."
        view = _View(skeleton, block, prefix, change, units)
        calls = [batch.calls[index] for batch in batches]
        fresh = dict(view.cut(_chosen(view.fed(hidden, calls, given), choose)))
        if behind is not None and correct is not None and given is not None:
            fresh.update(view.corrected(behind, correct, hidden, calls, given))
        if resuming is not None:
            resuming.exchange()
        cut.update(fresh if resuming is None else resuming.kept(fresh))
        with torch.no_grad():
            hidden = [replay(block, h, c) for h, c in zip(hidden, calls, strict=True)]
        check_finite(hidden, prefix.removesuffix("."))
        if resuming is not None and index < last:
            resuming.save(PassState(index + 1, hidden, given, cut))
        announce(index + 1, len(skeleton.blocks))
    smaller = checkpoint.evolve(cut, config=change.config)
    require_same(smaller, batches[0], hidden[0])
    return smaller


def _chosen(every: Sequence[Fed], choose: Callable[[Fed], Kept]) -> dict[Linear, Kept]:
    """What to keep of each linear; on several ranks each decides on its part of them."""
    found = ranks.divided([1.0] * len(every), lambda place: choose(every[place]))
    return {fed.linear: kept for fed, kept in zip(every, found, strict=True)}


class _View:
    """One block in memory during the pass."""

    def __init__(
        self, skeleton: Skeleton, block: nn.Module, prefix: str, change: Narrowing, units: Units
    ) -> None:
        self._skeleton, self._block, self._prefix = skeleton, block, prefix
        self._change, self._units = change, units
        name = f"{prefix}{change.output.tensor}"
        self._linears = [each for each in find_linears(block, prefix) if each.tensor == name]

    def fed(
        self, hidden: Sequence[Tensor], calls: Sequence[Call], given: list[Tensor] | None
    ) -> list[Fed]:
        """Statistics of the output linears; ``given`` is overwritten by the block's outputs."""
        if given is not None and len(self._linears) == 1:
            return [self._missing(self._linears[0], hidden, calls, given)]
        groups, _ = sum_inputs(
            self._block, self._prefix, self._linears, hidden, calls, GramAccumulator
        )
        fellows = Fellows(groups)
        return [
            Fed(linear, self._weight(linear), fellows.gram(group), None)
            for group in groups
            for linear in group.linears
        ]

    @torch.no_grad()
    def _missing(
        self, linear: Linear, hidden: Sequence[Tensor], calls: Sequence[Call], given: list[Tensor]
    ) -> Fed:
        """Statistics with the residual that earlier blocks caused."""
        weight = self._weight(linear)
        total = MissingSum(linear, weight)
        for index, (states, call) in enumerate(zip(hidden, calls, strict=True)):
            meant, given[index] = run_watched(self._block, self._prefix, linear, given[index], call)
            inputs, output = run_watched(self._block, self._prefix, linear, states, call)
            plainly = self._units.adds_plainly
            total.add(inputs, given[index] - output if plainly else (meant - inputs) @ weight.T)
        return total.fed()

    def corrected(
        self,
        tensor: str,
        correct: Callable[[Fed], Tensor],
        hidden: Sequence[Tensor],
        calls: Sequence[Call],
        wanted: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Replace the weight of the linear after the neurons; returns its tensor."""
        name = f"{self._prefix}{tensor}"
        (linear,) = (e for e in find_linears(self._block, self._prefix) if e.tensor == name)
        weight = self._weight(linear)
        fed = lacking(self._block, self._prefix, linear, weight, hidden, calls, wanted)
        stored = self._stored(name).clone()
        linear.view(stored).copy_(ranks.from_first(lambda: correct(fed)))
        self._skeleton.put(name, stored)
        return {name: stored}

    def _weight(self, linear: Linear) -> Tensor:
        return linear.view(self._skeleton.model.get_parameter(linear.tensor).detach())

    def cut(self, kept: Mapping[Linear, Kept]) -> dict[str, Tensor]:
        """Put the weights in at full size; returns the block's tensors cut to the new size."""
        name = self._linears[0].tensor
        whole = self._stored(name).clone()
        for linear, each in kept.items():
            linear.view(whole).copy_(each.weight)
        self._skeleton.put(name, whole)
        fresh = {}
        for part in self._change.parts:
            full = f"{self._prefix}{part.tensor}"
            stored = whole if full == name else self._stored(full)
            fresh[full] = self._taken(stored, part, kept)
        return fresh

    def _stored(self, name: str) -> Tensor:
        return self._skeleton.checkpoint.tensors[name]

    def _taken(self, stored: Tensor, part: Part, kept: Mapping[Linear, Kept]) -> Tensor:
        indices = {
            linear.expert: self._units.kept(part, each.units) for linear, each in kept.items()
        }
        if None in indices:
            return stored.index_select(part.axis, indices[None])
        experts = [
            stored[expert].index_select(part.axis - 1, indices[expert])
            for expert in range(len(stored))
        ]
        return torch.stack(experts)


def require_same(smaller: Checkpoint, batch: Batch, hidden: Tensor) -> None:
    """Check that the rebuilt model computes the hidden states ``hidden`` for a batch.

    Raises:
        ModelError: it does not.
    """
    skeleton = Skeleton(smaller)
    found = through_blocks(skeleton, capture(skeleton, [batch.tokens[:1]]))[0].float()
    wanted = hidden[:1].float()
    apart = (found - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    off = float(apart.median())
    if not off <= _SAME.get(skeleton.dtype, _SAME_IN_HALF):
        raise ModelError(
            f"{type(skeleton.model).__name__} built at the smaller size computes hidden states "
            f"that differ by {off:.1%} from those of the pass; this layout is not supported"
        )
