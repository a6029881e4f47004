"""Which sampled documents are kept: no repetition, no near-duplicates, none far too (un)likely."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from .generate import Sampled

# A document shorter than this says nothing; the shortest n-grams repeat in any text, and a run of
# eight tokens that stands in two documents was learned by heart.
FEWEST_TOKENS = 12
_REPEATED_RUN = 4
_FEWEST_DISTINCT = 0.7
_COPIED_RUN = 8
_MOST_COPIED = 0.3
# Robust standard deviations from the median of the batch's mean NLL.
_BAND = 3.0


def distinct_fraction(tokens: Sequence[int], run: int) -> float:
    """Different n-grams of ``run`` tokens over all of them; 1 where there are none."""
    grams = _grams(tokens, run)
    return len(set(grams)) / len(grams) if grams else 1.0


def is_repetitive(document: Sampled) -> bool:
    """Whether more than three tenths of its 4-grams stand in it before."""
    return distinct_fraction(document.sampled, _REPEATED_RUN) < _FEWEST_DISTINCT


def likelihood_band(documents: Sequence[Sampled]) -> tuple[float, float]:
    """Bounds of the mean NLL, nats per token: median -/+ 3 robust standard deviations.

    The robust standard deviation is 1.4826 times the median absolute deviation.
    """
    values = [document.nll for document in documents]
    middle = statistics.median(values)
    spread = 1.4826 * statistics.median(abs(value - middle) for value in values)
    return middle - _BAND * spread, middle + _BAND * spread


class Sieve:
    """Keeps documents, batch by batch, that pass every filter."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, ...]] = set()

    def keep(self, batch: Sequence[Sampled]) -> list[Sampled]:
        """The documents of a batch that are kept, in their order."""
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
        """Whether few of its 8-grams stand in documents that were kept; remembers them if so."""
        grams = _grams(document.sampled, _COPIED_RUN)
        copied = sum(gram in self._seen for gram in grams)
        if grams and copied > _MOST_COPIED * len(grams):
            return False
        self.remember([document])
        return True


def _grams(tokens: Sequence[int], run: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[place : place + run]) for place in range(len(tokens) - run + 1)]
