"""Which blocks a model can best do without, by what their absence does to its predictions.

Blocks go one at a time: of those that change hidden states least (ShortGPT's block influence,
https://arxiv.org/abs/2403.03853, only narrows the field) the one without which the predictions lie
nearest those of the model as given, by measured KL, with all chosen earlier already gone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..blocks.replay import Batch, capture, check_finite, replay
from ..blocks.skeleton import Skeleton
from ..evaluation.scoring import divergences

_CANDIDATES = 8


@dataclass
class LayerChoice:
    """How far a choice is, for one that may be stopped.

    Attributes:
        kept: places of the blocks that were not left out so far, ascending; None before the first
            round.
    """

    kept: list[int] | None = None

    def facts(self) -> list[int] | None:
        """The blocks not left out so far."""
        return self.kept

    def recall(self, facts: list[int] | None) -> None:
        """Take up a choice that was stopped."""
        self.kept = facts


@torch.no_grad()
def choose_layers(
    skeleton: Skeleton,
    tokens: Tensor,
    keep: int,
    announce: Callable[[int, int], None],
    choice: LayerChoice | None = None,
) -> tuple[int, ...]:
    """The places of the ``keep`` blocks that stay, ascending.

    Args:
        tokens: int64 ``[windows, length]`` to measure on; all go through a block at once.
        announce: told rounds done and their count; a round runs the model about five times.
        choice: where to go on; says after every round how far the choice is.
    """
    choice = LayerChoice() if choice is None else choice
    kept = list(range(len(skeleton.blocks))) if choice.kept is None else list(choice.kept)
    first, rounds = len(skeleton.blocks) - len(kept), len(skeleton.blocks) - keep
    if first == rounds:
        return tuple(kept)
    batch = capture(skeleton, [tokens])[0]
    given, influence = _given(skeleton, batch)
    for done in range(first, rounds):
        candidates = sorted(sorted(kept, key=influence.__getitem__)[:_CANDIDATES])
        finals = _without_each(skeleton, batch, kept, candidates)
        found = divergences(skeleton, tokens, given, finals)
        kept.remove(candidates[min(range(len(found)), key=found.__getitem__)])
        choice.kept = list(kept)
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
