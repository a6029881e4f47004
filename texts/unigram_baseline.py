"""Unigram baseline perplexity: the score of a model that knows only token frequencies."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from .windows import Windows

# Fraction of the vocabulary size, the perplexity of a uniform guess.
_NEARLY_NOTHING = 0.5


def chance_perplexity(heldout: Windows, seen: Iterable[Windows], vocab_size: int) -> float:
    """Return the perplexity at or above which a model is no better than guessing.

    The minimum of half the vocabulary size and the unigram perplexity on the held-out windows,
    with token frequencies of the ``seen`` windows and add-one smoothing.
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
