"""Block tuning: the codes of a whole block moved until its output is nearest to what it should be.

A solver sees one linear at a time; here gradients of the block's own output say which codes and
scales to change (SignRound, https://arxiv.org/abs/2309.05516; what is learned of each weight is in
`solvers.learned_rounding`). The loss is the squared error of a token's output over that output's
square, averaged over tokens: without the division a few tokens of huge activations would own it.
Windows that are never trained on choose the iterate, the start among them, so that the outcome is
never worse there than what the solver gave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call

from ...checkpoints import Quantized
from ...errors import DataError, SettingError
from ...solvers.learned_rounding import LearnedRounding
from ..blocks.linears import Linear
from .losses import check_loss, relative_errors
from .rewriting import Solved

Announce = Callable[[int, int], None]
Target = Literal["given", "block"]

# How often the windows kept out are asked; each time costs about as much as two iterations.
_NUM_CHECKS = 8
# Where few iterations are asked for, going further in each of them is worse than going less far.
_HIGHEST_RATE = 1 / 32


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a block is tuned.

    Attributes:
        iterations: steps of the optimiser; 0 only measures.
        batch_size: windows in one step, rounded up to whole batches of the pass over the blocks.
        learning_rate: at the start, from where it falls linearly to 0; in steps of the grid. None
            for 2 / iterations, and 1 / 32 at most.
        seed: of the order of the batches.
        target: what the block should give: what it gives in the model as given (``given``), which
            also makes up for the blocks before it, or what it would give, as given, on the very
            inputs it gets (``block``).
        heldout_share: last part of the calibration windows, never trained on, which judges; in
            whole batches, at least one.
    """

    iterations: int = 200
    batch_size: int = 4
    learning_rate: float | None = None
    seed: int = 0
    target: Target = "given"
    heldout_share: float = 1 / 8

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise SettingError(f"iterations {self.iterations} is out of range; give 0 or more")
        if self.batch_size < 1:
            raise SettingError(f"batch_size {self.batch_size} is out of range; give 1 or more")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise SettingError(
                f"learning_rate {self.learning_rate} is out of range; give more than 0, or None"
            )
        if not 0 < self.heldout_share < 1:
            raise SettingError(
                f"heldout_share {self.heldout_share} is out of range; give more than 0 and less "
                f"than 1"
            )

    def rate(self, iteration: int) -> float:
        """The learning rate of an iteration, counted from 0."""
        start = self.learning_rate or min(_HIGHEST_RATE, 2 / self.iterations)
        return start * (1 - iteration / self.iterations)

    def judges(self, done: int) -> bool:
        """Whether the windows kept out are asked after this many iterations."""
        return done == self.iterations or done % math.ceil(self.iterations / _NUM_CHECKS) == 0

    def num_heldout(self, num_batches: int) -> int:
        """How many of the last batches judge; at least one, and at least one is left.

        Raises:
            DataError: there are not enough batches.
        """
        heldout = math.ceil(self.heldout_share * num_batches)
        if heldout < num_batches:
            return heldout
        raise DataError(
            f"the calibration windows make {num_batches} batches and heldout_share="
            f"{self.heldout_share:g} keeps out {heldout}, so none is left to tune on; give more "
            f"windows, or lower batch_size or the share"
        )


@dataclass(frozen=True)
class Tuned:
    """What tuning a block led to.

    Attributes:
        solutions: the linears that were tuned; those that were not on a grid are not among them.
        loss_before, loss_after: relative squared error of the block's output on the windows kept
            out, the latter of ``solutions`` as they would be stored.
        iteration: after which they were kept; 0 for the solver's own.
        changed_share: part of the codes that differ from the solver's.
    """

    solutions: Mapping[Linear, Quantized]
    loss_before: float
    loss_after: float
    iteration: int
    changed_share: float


def tune_block(solved: Solved, tuning: Tuning, *, announce: Announce) -> Tuned:
    """Tune all linears of a block that were put on a grid.

    The block keeps the weights it has. ``announce`` is told of every iteration and may raise to
    stop.

    Raises:
        SettingError: ``target="given"`` after a pass that did not follow the model as given.
        DataError: too few batches to keep one out.
        NumericsError: a loss that is NaN or infinite.
    """
    start = {k: v for k, v in solved.solutions.items() if isinstance(v, Quantized)}
    if not start:
        return Tuned({}, 0.0, 0.0, 0, 0.0)
    num_batches = len(solved.inputs)
    num_learned = num_batches - tuning.num_heldout(num_batches)
    judged = range(num_learned, num_batches)
    block = _Block(solved, start, tuning.target)
    before = check_loss(block.mean_loss(judged), "before tuning", "lower damping, or raise bits")
    best, kept, kept_at = before, start, 0
    mend = "lower learning_rate"
    for done, batches in enumerate(_draws(tuning, num_learned, len(solved.inputs[0])), 1):
        loss = block.descend(batches, rate=tuning.rate(done - 1))
        check_loss(loss, f"at tuning iteration {done}", mend)
        if tuning.judges(done):
            reached = check_loss(block.mean_loss(judged), f"after iteration {done}", mend)
            if reached < best:
                best, kept, kept_at = reached, block.stored(), done
        announce(done, tuning.iterations)
    return Tuned(kept, before, best, kept_at, _changed_share(start, kept))


class _Block:
    """A block whose weights on a grid are being learned, and what it should give on each batch."""

    def __init__(self, solved: Solved, start: Mapping[Linear, Quantized], target: Target) -> None:
        self._block, self._start = solved.block, start
        self._names = {linear: linear.tensor.removeprefix(solved.prefix) for linear in start}
        self._batches = list(
            zip(solved.inputs, solved.calls, _targets(solved, target), strict=True)
        )
        self._roundings = {linear: _rounding(solved, linear, ref) for linear, ref in start.items()}

    def descend(self, batches: Sequence[int], *, rate: float) -> float:
        """Take one step on the mean loss of numbered batches; the loss before it."""
        weights = {k: v.requires_grad_() for k, v in self._weights().items()}
        total = 0.0
        for index in batches:
            with torch.enable_grad():
                loss = self._losses(weights, index).mean() / len(batches)
            torch.autograd.backward(loss)
            total += loss.item()
        for linear, rounding in self._roundings.items():
            gradient = weights[linear].grad
            if gradient is not None:  # an expert that none of these tokens chose has none
                rounding.step(gradient, rate=rate)
        return total

    @torch.no_grad()
    def mean_loss(self, batches: Iterable[int]) -> float:
        """The loss over several batches, each token counting alike."""
        weights = self._weights()
        return float(torch.cat([self._losses(weights, index) for index in batches]).mean())

    def stored(self) -> dict[Linear, Quantized]:
        """What the linears are now, as they would be stored."""
        return {
            linear: Quantized(
                self._roundings[linear].codes.cpu(),
                self._roundings[linear].scales.cpu(),
                bits=start.bits,
                zero_points=start.zero_points,
            )
            for linear, start in self._start.items()
        }

    def _weights(self) -> dict[Linear, Tensor]:
        """Each weight in the dtype the block computes in, of the very values that are stored."""
        return {
            linear: rounding.values(self._block.get_parameter(self._names[linear]).dtype)
            for linear, rounding in self._roundings.items()
        }

    def _losses(self, weights: Mapping[Linear, Tensor], index: int) -> Tensor:
        """Relative squared error of each token of a batch, float32 ``[batch * length]``."""
        hidden, call, target = self._batches[index]
        exchanged = {self._names[linear]: weight for linear, weight in weights.items()}
        output = functional_call(self._block, exchanged, (hidden, *call.args), call.kwargs)
        states: Tensor = output[0] if isinstance(output, tuple) else output
        return relative_errors(states, target)


def _rounding(solved: Solved, linear: Linear, start: Quantized) -> LearnedRounding:
    weight = solved.weights[linear]
    points = start.zero_points
    return LearnedRounding(
        weight,
        start.codes.to(weight.device),
        start.scales.to(weight.device),
        None if points is None else points.to(weight.device),
        bits=start.bits,
    )


def _targets(solved: Solved, target: Target) -> Sequence[Tensor]:
    if target == "block":
        return solved.block_outputs
    if solved.given_outputs is None:
        raise SettingError(
            "tuning with target='given' was not told what the model as given gives; run the pass "
            "with paired=True, or tune with target='block'"
        )
    return solved.given_outputs


def _draws(tuning: Tuning, num_batches: int, windows_per_batch: int) -> Iterator[list[int]]:
    """The batches of every iteration, drawn anew in each round over all of them."""
    generator = torch.Generator().manual_seed(tuning.seed)
    per_step = min(num_batches, math.ceil(tuning.batch_size / windows_per_batch))
    waiting: list[int] = []
    for _ in range(tuning.iterations):
        while len(waiting) < per_step:
            waiting += torch.randperm(num_batches, generator=generator).tolist()
        yield waiting[:per_step]
        del waiting[:per_step]


def _changed_share(start: Mapping[Linear, Quantized], kept: Mapping[Linear, Quantized]) -> float:
    changed = sum(int((ref.codes != kept[linear].codes).sum()) for linear, ref in start.items())
    return changed / sum(ref.num_values for ref in start.values())
