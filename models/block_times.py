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
from .inputs import sum_inputs
from .linears import find_linears
from .replay import Batch, capture, logits, replay
from .skeleton import Skeleton

_REPEATS = 2
_HEAD_TOKENS = 64  # timed of a window, since the head's product is as long as many blocks


@dataclass(frozen=True)
class BlockTimes:
    """Seconds on the first block.

    Attributes:
        block: one window through it; ``head``: what follows the blocks, to logits.
        gram: that window's inputs summed for every linear.
        solve: those sums factorised.
        token: one token through all blocks and the head.
    """

    block: float
    head: float
    gram: float
    solve: float
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
        summing, solving = _sums(block, f"{skeleton.path}.0.", whole)
    return BlockTimes(
        block=through,
        head=head * length / some,
        gram=max(0.0, summing - through),
        solve=solving,
        token=token * len(skeleton.blocks) + token_head,
    )


def _sums(block: nn.Module, prefix: str, batch: Batch) -> tuple[float, float]:
    """Seconds of running the block while summing its inputs, and of factorising the sums."""
    linears = find_linears(block, prefix)
    start = time.perf_counter()
    groups, _ = sum_inputs(
        block, prefix, linears, [batch.hidden], [batch.calls[0]], GramAccumulator
    )
    _wait()
    summed = time.perf_counter()
    for group in groups:
        if group.sum.num_tokens:
            factorize(group.sum.gram())
    _wait()
    return summed - start, time.perf_counter() - summed


def _fastest(work: Callable[[], object]) -> float:
    """The least of a few runs, after one that warms what it touches."""
    work()
    found = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        work()
        _wait()
        found.append(time.perf_counter() - start)
    return min(found)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
