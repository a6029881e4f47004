"""Time one block of a model on this machine: the unit of all time estimates."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import psutil
import torch
from torch import nn

from ...checkpoints import Checkpoint
from ...checkpoints.devices import finish_work
from ...checkpoints.placement import current_device
from ...solvers.factor import factorize
from ...solvers.gram import GramAccumulator
from ..blocks.linears import find_linears
from ..blocks.products import in_pass
from ..blocks.replay import Batch, capture, logits, replay
from ..blocks.skeleton import Skeleton
from ..passes.inputs import Group, sum_inputs

_REPEATS = 3
_LONG_SECONDS = 1.0  # work that took this long is not repeated
BUSY = 0.25  # cores used by other programs from which on CPU time replaces wall time
_HEAD_TOKENS = 64  # tokens the head is timed on: its product costs as much as many blocks


@dataclass(frozen=True)
class BlockTimes:
    """Seconds of the operations that passes consist of, measured on the first block.

    Attributes:
        block: one window through the block.
        head: one window from the last hidden states to logits.
        gram: Gram matrices of one window's inputs, for every linear.
        solve: factorisation of these Gram matrices, one per distinct input.
        product: every linear's weight times its Gram matrix.
        token: one token through all blocks and the head.
        taken: cores used by other programs meanwhile; 0 if unknown. From 0.25 on, on a CPU, the
            seconds are CPU time of this process divided by its threads.
    """

    block: float
    head: float
    gram: float
    solve: float
    product: float
    token: float
    taken: float = 0.0


@dataclass(frozen=True)
class Moment:
    """Clock readings in seconds: wall time, CPU time of this process, CPU time of the machine."""

    wall: float
    own: float
    all: float


Clock = Callable[[], Moment]


def now() -> Moment:
    """The clocks of this machine."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts guest time as user time too.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return Moment(time.perf_counter(), time.process_time(), sum(times) - idle - guests)


@torch.no_grad()
def time_block(checkpoint: Checkpoint, length: int, *, clock: Clock = now) -> BlockTimes:
    """Load one block and time a window of ``length`` tokens.

    Raises:
        ModelError: the model is not a stack of blocks, or does not accept such a window.
    """
    skeleton = Skeleton(checkpoint)
    vocabulary = int(skeleton.model.config.get_text_config(decoder=True).vocab_size)
    tokens = torch.arange(length).remainder(vocabulary).unsqueeze(0)
    whole, single = capture(skeleton, [tokens, tokens[:, :1]])
    watch = _Watch(clock)
    some = min(length, _HEAD_TOKENS)
    head = watch.fastest(partial(logits, skeleton, whole.tokens[:, :some], whole.hidden[:, :some]))
    token_head = watch.fastest(partial(logits, skeleton, single.tokens, single.hidden))
    with skeleton.block(0) as block:
        through = watch.fastest(partial(replay, block, whole.hidden, whole.calls[0]))
        token = watch.fastest(partial(replay, block, single.hidden, single.calls[0]))
        sums = _Sums(block, f"{skeleton.path}.0.", whole)
        with in_pass(skeleton.device):
            passing = watch.fastest(partial(replay, block, whole.hidden, whole.calls[0]))
        summing = watch.fastest(sums.sum)
        solving, multiplying = watch.fastest(sums.factorize), watch.fastest(sums.multiply)
    taken = watch.taken()

    def ours(found: Moment) -> float:
        return _seconds(found, busy=taken >= BUSY)

    return BlockTimes(
        block=ours(through),
        head=ours(head) * length / some,
        gram=max(0.0, ours(summing) - ours(passing)),
        solve=ours(solving),
        product=ours(multiplying),
        token=ours(token) * len(skeleton.blocks) + ours(token_head),
        taken=taken,
    )


class _Sums:
    """The Gram matrices of one window's inputs, and the operations of a solver on them."""

    def __init__(self, block: nn.Module, prefix: str, batch: Batch) -> None:
        self._block, self._prefix, self._batch = block, prefix, batch
        self._groups: list[Group[GramAccumulator]] = []

    def sum(self) -> None:
        """Run the block and accumulate its Gram matrices."""
        linears = find_linears(self._block, self._prefix)
        hidden, calls = [self._batch.hidden], [self._batch.calls[0]]
        found, _ = sum_inputs(self._block, self._prefix, linears, hidden, calls, GramAccumulator)
        self._groups = [group for group in found if group.sum.num_tokens]

    def factorize(self) -> None:
        for group in self._groups:
            factorize(group.sum.gram())

    def multiply(self) -> None:
        for group in self._groups:
            for linear in group.linears:
                path = linear.tensor.removeprefix(self._prefix)
                linear.view(self._block.get_parameter(path)) @ group.sum.gram().matrix


class _Watch:
    """Times work, and measures how many cores other programs use meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._start = clock, clock()

    def fastest(self, work: Callable[[], object]) -> Moment:
        """The fastest of a few runs; the first may include warm-up."""
        found: list[Moment] = []
        while len(found) < _REPEATS and sum(each.wall for each in found) < _LONG_SECONDS:
            start = self._clock()
            work()
            _wait()
            found.append(_between(start, self._clock()))
        return min(found, key=lambda each: each.wall)

    def taken(self) -> float:
        """Cores used by other programs since the start."""
        spent = _between(self._start, self._clock())
        return max(0.0, (spent.all - spent.own) / spent.wall) if spent.wall > 0 else 0.0


def _between(start: Moment, end: Moment) -> Moment:
    return Moment(end.wall - start.wall, end.own - start.own, end.all - start.all)


def _seconds(found: Moment, *, busy: bool) -> float:
    """Wall time; on a busy machine the CPU time of this process per thread, if that is less."""
    if not busy or current_device().type != "cpu":
        return found.wall
    return min(found.wall, found.own / torch.get_num_threads())


def _wait() -> None:
    finish_work(current_device())
