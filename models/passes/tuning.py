"""Block tuning: learn the rounding of all quantised weights of a block from its output error.

A solver treats one linear at a time; here gradients of the block's output change the integers and
scales of the whole block (SignRound, https://arxiv.org/abs/2309.05516; the parameters of one weight
are in `solvers.learned_rounding`). The loss is the relative squared error of the output per token,
||y - t||^2 / ||t||^2, averaged over tokens: without the division a few tokens with huge activations
would dominate it. Held-out windows select the best iterate, the start included, so the result is
never worse on them than the solver's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...checkpoints import Quantized
from ...errors import DataError, SettingError
from ...solvers.learned_rounding import LearnedRounding
from ..blocks.announcing import AnnounceCount
from ..blocks.linears import Linear
from ..blocks.replay import replay, with_parameters
from .losses import check_loss, relative_errors
from .rewriting import Solved

TuningTarget = Literal["given", "block"]

# Evaluations on the held-out windows; each costs about as much as two iterations.
_NUM_CHECKS = 8
# Largest learning rate: with few iterations, larger steps gave worse results.
_HIGHEST_RATE = 1 / 32


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a block is tuned.

    Attributes:
        iterations: optimiser steps; 0 only measures.
        batch_size: windows per step, rounded up to whole batches of the pass over the blocks.
        learning_rate: initial learning rate, decaying linearly to 0, in steps of the grid. Default
            2 / iterations, at most 1 / 32.
        seed: seed of the order of the batches.
        target: target of the block's output: its output in the original model (``given``), which
            also corrects the error of earlier blocks, or the output of the original block on the
            present inputs (``block``).
        heldout_share: fraction of the calibration windows, the last ones, held out for selection;
            whole batches, at least one.
    """

    iterations: int = 200
    batch_size: int = 4
    learning_rate: float | None = None
    seed: int = 0
    target: TuningTarget = "given"
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
        """Whether to evaluate on the held-out windows after this many iterations."""
        return done == self.iterations or done % math.ceil(self.iterations / _NUM_CHECKS) == 0

    def num_heldout(self, num_batches: int) -> int:
        """Number of held-out batches: at least one, and at least one is left to train on.

        Raises:
            DataError: there are not enough batches.
        """
        heldout = math.ceil(self.heldout_share * num_batches)
        if heldout < num_batches:
            return heldout
        raise DataError(
            f"the calibration windows make {num_batches} batches and heldout_share="
            f"{self.heldout_share:g} holds out {heldout}, so none is left to tune on; give more "
            f"windows, or lower batch_size or heldout_share"
        )


@dataclass(frozen=True)
class Tuned:
    """The result of tuning a block.

    Attributes:
        solutions: the tuned linears; linears that are not quantised are absent.
        loss_before, loss_after: relative squared error of the block's output on the held-out
            windows, before tuning and of ``solutions`` as stored.
        iteration: iteration of the selected iterate; 0 for the solver's result.
        changed_share: fraction of the integers that differ from the solver's.
    """

    solutions: Mapping[Linear, Quantized]
    loss_before: float
    loss_after: float
    iteration: int
    changed_share: float


def tune_block(solved: Solved, tuning: Tuning, *, announce: AnnounceCount) -> Tuned:
    """Tune all quantised linears of a block; experts stay as they are.

    The block itself is not changed. ``announce`` receives every iteration and may raise to stop.

    Raises:
        SettingError: ``target="given"`` after a pass that did not follow the original model.
        DataError: too few batches to hold one out.
        NumericsError: a loss that is NaN or infinite.
    """
    start = {
        linear: solution
        for linear, solution in solved.solutions.items()
        if isinstance(solution, Quantized) and linear.expert is None
    }
    if not start:
        return Tuned({}, 0.0, 0.0, 0, 0.0)
    num_batches = len(solved.inputs)
    num_learned = num_batches - tuning.num_heldout(num_batches)
    judged = range(num_learned, num_batches)
    block = _Block(solved, start, tuning.target)
    before = check_loss(block.mean_loss(judged), "before tuning", "lower damping, or raise bits")
    best, kept, kept_at = before, start, 0
    fix = "lower learning_rate"
    for done, batches in enumerate(_draws(tuning, num_learned, len(solved.inputs[0])), 1):
        # One signSGD step on V (rounding offsets) and the scale factors.
        loss = block.descend(batches, rate=tuning.rate(done - 1))
        check_loss(loss, f"at tuning iteration {done}", fix)
        # Select on held-out windows, with the weights as they would be stored.
        if tuning.judges(done):
            reached = check_loss(block.mean_loss(judged), f"after iteration {done}", fix)
            if reached < best:
                best, kept, kept_at = reached, block.stored(), done
        announce(done, tuning.iterations)
    return Tuned(kept, before, best, kept_at, _changed_share(start, kept))


class _Block:
    """A block whose quantised weights are being learned, and its target output per batch."""

    def __init__(
        self, solved: Solved, start: Mapping[Linear, Quantized], target: TuningTarget
    ) -> None:
        self._block, self._start = solved.block, start
        self._names = {linear: linear.tensor.removeprefix(solved.prefix) for linear in start}
        self._batches = list(
            zip(solved.inputs, solved.calls, _targets(solved, target), strict=True)
        )
        self._roundings = {linear: _rounding(solved, linear, ref) for linear, ref in start.items()}

    def descend(self, batches: Sequence[int], *, rate: float) -> float:
        """Take one step on the mean loss of some batches; returns the loss before it."""
        weights = {k: v.requires_grad_() for k, v in self._weights().items()}
        total = 0.0
        for index in batches:
            with torch.enable_grad():
                loss = self._losses(weights, index).mean() / len(batches)
            torch.autograd.backward(loss)
            total += loss.item()
        for linear, rounding in self._roundings.items():
            gradient = weights[linear].grad
            if gradient is not None:  # None for an expert that received no token
                rounding.step(gradient, rate=rate)
        return total

    @torch.no_grad()
    def mean_loss(self, batches: Iterable[int]) -> float:
        """Mean loss per token over several batches."""
        weights = self._weights()
        return float(torch.cat([self._losses(weights, index) for index in batches]).mean())

    def stored(self) -> dict[Linear, Quantized]:
        """The linears as they would be stored now."""
        return {
            linear: start.with_values(
                self._roundings[linear].codes.cpu(), self._roundings[linear].scales.cpu()
            )
            for linear, start in self._start.items()
        }

    def _weights(self) -> dict[Linear, Tensor]:
        """The dequantised weights [out_features, in_features] in the block's compute dtype."""
        return {
            linear: rounding.values(self._block.get_parameter(self._names[linear]).dtype)
            for linear, rounding in self._roundings.items()
        }

    def _losses(self, weights: Mapping[Linear, Tensor], index: int) -> Tensor:
        """Relative squared error of each token of a batch, float32 ``[batch * length]``."""
        hidden, call, target = self._batches[index]
        exchanged = {self._names[linear]: weight for linear, weight in weights.items()}
        run = with_parameters(self._block, exchanged)
        output = replay(run, hidden, call, stay=True)
        return relative_errors(output, target.to(output.device))


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


def _targets(solved: Solved, target: TuningTarget) -> Sequence[Tensor]:
    if target == "block":
        return solved.block_outputs
    if solved.given_outputs is None:
        raise SettingError(
            "tuning with target='given' needs the outputs of the original model; run the pass with "
            "paired=True, or tune with target='block'"
        )
    return solved.given_outputs


def _draws(tuning: Tuning, num_batches: int, windows_per_batch: int) -> Iterator[list[int]]:
    """The batches of every iteration, reshuffled each epoch."""
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
