"""Which blocks a model can best do without, by what their absence does to its predictions.

Blocks go one at a time: of those that change hidden states least (ShortGPT's block influence,
https://arxiv.org/abs/2403.03853, only narrows the field) the one without which the predictions lie
nearest those of the model as given, by measured KL, with all chosen earlier already gone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from .replay import Batch, capture, check_finite, replay
from .scoring import divergences
from .skeleton import Skeleton

_CANDIDATES = 8


@torch.no_grad()
def choose_layers(
    skeleton: Skeleton, tokens: Tensor, keep: int, announce: Callable[[int, int], None]
) -> tuple[int, ...]:
    """The places of the ``keep`` blocks that stay, ascending.

    Args:
        tokens: int64 ``[windows, length]`` to measure on; all go through a block at once.
        announce: told rounds done and their count; a round runs the model about five times.
    """
    batch = capture(skeleton, [tokens])[0]
    given, influence = _given(skeleton, batch)
    kept = list(range(len(skeleton.blocks)))
    rounds = len(kept) - keep
    for done in range(rounds):
        candidates = sorted(sorted(kept, key=influence.__getitem__)[:_CANDIDATES])
        finals = _without_each(skeleton, batch, kept, candidates)
        found = divergences(skeleton, tokens, given, finals)
        kept.remove(candidates[min(range(len(found)), key=found.__getitem__)])
        announce(done + 1, rounds)
    return tuple(kept)


def _given(skeleton: Skeleton, batch: Batch) -> tuple[Tensor, list[float]]:
    """What leaves the last block, and each block's 1 - mean cosine of what enters and leaves it."""
    hidden, influence = batch.hidden, []
    for index, block in skeleton.each_block():
        left = replay(block, hidden, batch.calls[index])
        cosine = torch.cosine_similarity(hidden.float(), left.float(), dim=-1)
        influence.append(1 - float(cosine.mean()))
        hidden = left
    check_finite([hidden], skeleton.path)
    return hidden, influence


def _without_each(
    skeleton: Skeleton, batch: Batch, kept: Collection[int], candidates: Sequence[int]
) -> list[Tensor]:
    """What leaves the last block when ``kept`` less one candidate are run, for each of them.

    One pass: runs are alike up to the block that one of them leaves out.
    """
    whole = batch.hidden
    without: dict[int, Tensor] = {}
    for index, block in skeleton.each_block():
        if index not in kept:
            continue
        call = batch.calls[index]
        without = {gone: replay(block, hidden, call) for gone, hidden in without.items()}
        if index in candidates:
            without[index] = whole
        if len(without) < len(candidates):
            whole = replay(block, whole, call)
    return [without[gone] for gone in candidates]
