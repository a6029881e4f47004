"""What somebody scores who knows how often words occur and nothing else: the bar of chance."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from .windows import Windows

# Of the vocabulary's size, which is what knowing nothing at all scores.
_NEARLY_NOTHING = 0.5


def chance_perplexity(heldout: Windows, seen: Iterable[Windows], vocab_size: int) -> float:
    """The perplexity from which on a model does no better than guessing.

    The lesser of half the vocabulary's size and what a unigram guess scores: token frequencies of
    the ``seen`` windows, one added to each count, judged on the held-out ones.
    """
    counts = torch.ones(vocab_size, dtype=torch.float64)
    read = False
    for windows in seen:
        counts += torch.bincount(windows.tokens.flatten(), minlength=vocab_size)
        read = True
    blind = _NEARLY_NOTHING * vocab_size
    if not read:
        return blind
    predicted = heldout.tokens[:, 1:].flatten()
    nats = float((counts.sum().log() - counts[predicted].log()).mean())
    return min(blind, math.exp(nats))
