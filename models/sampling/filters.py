"""Filters for sampled documents: repetition, near-duplicates, outliers in likelihood."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from .generate import Sampled

# Shorter documents are dropped. N-grams of 4 tokens measure repetition inside a document; an n-gram
# of 8 tokens that occurs in two documents is taken for memorised text.
FEWEST_TOKENS = 12
_REPEATED_RUN = 4
_FEWEST_DISTINCT = 0.7
_COPIED_RUN = 8
_MOST_COPIED = 0.3
# Robust standard deviations from the median of the batch's mean NLL.
_BAND = 3.0


def distinct_fraction(tokens: Sequence[int], run: int) -> float:
    """Fraction of the n-grams of ``run`` tokens that are distinct; 1 if there are none."""
    grams = _grams(tokens, run)
    return len(set(grams)) / len(grams) if grams else 1.0


def is_repetitive(document: Sampled) -> bool:
    """Whether more than 30 % of its 4-grams are repeats."""
    return distinct_fraction(document.sampled, _REPEATED_RUN) < _FEWEST_DISTINCT


def likelihood_band(documents: Sequence[Sampled]) -> tuple[float, float]:
    """Bounds of the mean NLL in nats per token: median ± 3 robust standard deviations.

    The robust standard deviation is 1.4826 times the median absolute deviation.
    """
    values = [document.nll for document in documents]
    middle = statistics.median(values)
    spread = 1.4826 * statistics.median(abs(value - middle) for value in values)
    return middle - _BAND * spread, middle + _BAND * spread


class Sieve:
    """Selects the documents of each batch that pass every filter."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, ...]] = set()

    def keep(self, batch: Sequence[Sampled]) -> list[Sampled]:
        """The documents of a batch that pass, in order."""
        whole = [each for each in batch if len(each.sampled) >= FEWEST_TOKENS]
        whole = [each for each in whole if not is_repetitive(each)]
        if not whole:
            return []
        least, most = likelihood_band(whole)
        return [each for each in whole if least <= each.nll <= most and self._is_new(each)]

    def remember(self, documents: Iterable[Sampled]) -> None:
        """Take documents as kept before, as when sampling is resumed."""
        for each in documents:
            self._seen.update(_grams(each.sampled, _COPIED_RUN))

    def _is_new(self, document: Sampled) -> bool:
        """Whether at most 30 % of its 8-grams occur in kept documents; if so, adds them."""
        grams = _grams(document.sampled, _COPIED_RUN)
        copied = sum(gram in self._seen for gram in grams)
        if grams and copied > _MOST_COPIED * len(grams):
            return False
        self.remember([document])
        return True


def _grams(tokens: Sequence[int], run: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[place : place + run]) for place in range(len(tokens) - run + 1)]
