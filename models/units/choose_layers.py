"""Choose the blocks to remove, by the KL that their absence causes.

Greedy, one block per round. The candidates are the blocks that change hidden states least (block
influence of ShortGPT, https://arxiv.org/abs/2403.03853). Of these, the block whose removal gives
the smallest measured KL to the original model is removed, with the blocks chosen earlier already
gone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..blocks.replay import Batch, capture, check_finite, replay, require_independent
from ..blocks.skeleton import Skeleton
from ..evaluation.scoring import divergences

_CANDIDATES = 8


@dataclass
class LayerChoice:
    """The progress of a choice, for resuming.

    Attributes:
        kept: indices of the blocks that remain so far, ascending; None before the first round.
    """

    kept: list[int] | None = None

    def facts(self) -> list[int] | None:
        """The remaining blocks."""
        return self.kept

    def recall(self, facts: list[int] | None) -> None:
        """Restore an interrupted choice."""
        self.kept = facts


@torch.no_grad()
def choose_layers(
    skeleton: Skeleton,
    tokens: Tensor,
    keep: int,
    announce: Callable[[int, int], None],
    choice: LayerChoice | None = None,
) -> tuple[int, ...]:
    """Indices of the ``keep`` remaining blocks, ascending.

    Args:
        tokens: int64 ``[windows, length]`` to measure on, as one batch.
        announce: receives the number of finished rounds and their total; a round costs about five
            runs of the model.
        choice: progress to resume from; updated after every round.
    """
    choice = LayerChoice() if choice is None else choice
    kept = list(range(len(skeleton.blocks))) if choice.kept is None else list(choice.kept)
    first, rounds = len(skeleton.blocks) - len(kept), len(skeleton.blocks) - keep
    if first == rounds:
        return tuple(kept)
    batch = capture(skeleton, [tokens])[0]
    require_independent(skeleton, [batch])
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
    """The last hidden states, and the influence of each block: 1 - mean cosine(input, output)."""
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
    """The last hidden states with ``kept`` minus one candidate, for each candidate.

    One pass: the runs are identical up to the block that one of them leaves out.
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
