"""How fast this machine is with one block of a model: the measure that run times are told in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ..checkpoints import Checkpoint
from ..solvers.factor import factorize
from ..solvers.gram import GramAccumulator
from .inputs import Group, sum_inputs
from .linears import find_linears
from .replay import Batch, capture, logits, replay
from .skeleton import Skeleton

_REPEATS = 3
_LONG_SECONDS = 1.0  # what took that long is not run again
_HEAD_TOKENS = 64  # timed of a window, since the head's product is as long as many blocks


@dataclass(frozen=True)
class BlockTimes:
    """Seconds on the first block.

    Attributes:
        block: one window through it; ``head``: what follows the blocks, to logits.
        gram: that window's inputs summed for every linear.
        solve: those sums factorised, one for each distinct input.
        product: every linear's weight multiplied by the sum over its inputs.
        token: one token through all blocks and the head.
    """

    block: float
    head: float
    gram: float
    solve: float
    product: float
    token: float


@torch.no_grad()
def time_block(checkpoint: Checkpoint, length: int) -> BlockTimes:
    """Load one block and push a window of ``length`` tokens through it.

    Raises:
        ModelError: the model is no stack of blocks, or does not take such a window.
    """
    skeleton = Skeleton(checkpoint)
    vocabulary = int(skeleton.model.config.get_text_config(decoder=True).vocab_size)
    tokens = torch.arange(length).remainder(vocabulary).unsqueeze(0)
    whole, single = capture(skeleton, [tokens, tokens[:, :1]])
    some = min(length, _HEAD_TOKENS)
    head = _fastest(partial(logits, skeleton, whole.tokens[:, :some], whole.hidden[:, :some]))
    token_head = _fastest(partial(logits, skeleton, single.tokens, single.hidden))
    with skeleton.block(0) as block:
        through = _fastest(partial(replay, block, whole.hidden, whole.calls[0]))
        token = _fastest(partial(replay, block, single.hidden, single.calls[0]))
        sums = _Sums(block, f"{skeleton.path}.0.", whole)
        summing = _fastest(sums.sum)
        solving, multiplying = _fastest(sums.factorize), _fastest(sums.multiply)
    return BlockTimes(
        block=through,
        head=head * length / some,
        gram=max(0.0, summing - through),
        solve=solving,
        product=multiplying,
        token=token * len(skeleton.blocks) + token_head,
    )


class _Sums:
    """What a solver works on: the sums over one window's inputs, and what is done with them."""

    def __init__(self, block: nn.Module, prefix: str, batch: Batch) -> None:
        self._block, self._prefix, self._batch = block, prefix, batch
        self._groups: list[Group[GramAccumulator]] = []

    def sum(self) -> None:
        """Run the block while its inputs are summed."""
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


def _fastest(work: Callable[[], object]) -> float:
    """The least of a few runs, the first of which may have to warm what it touches."""
    found: list[float] = []
    while len(found) < _REPEATS and sum(found) < _LONG_SECONDS:
        start = time.perf_counter()
        work()
        _wait()
        found.append(time.perf_counter() - start)
    return min(found)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
