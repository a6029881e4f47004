"""Telling a model that only repeats itself from one that speaks: what damage of a kind looks like.

A model pruned too far may keep a passable perplexity and yet, left to go on by itself, say one word
over and over. A sound small model does so at times too, so it is judged over several texts.
"""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST_PERIOD = 4
_REPEATED = 0.9


def repeats(tokens: Sequence[int]) -> bool:
    """Whether nine in ten tokens are the one that stood one to four places before."""
    return any(
        _share_repeated(tokens, period) >= _REPEATED
        for period in range(1, min(_LONGEST_PERIOD, len(tokens) // 2) + 1)
    )


def _share_repeated(tokens: Sequence[int], period: int) -> float:
    pairs = list(zip(tokens[period:], tokens[:-period], strict=True))
    return sum(now == before for now, before in pairs) / len(pairs)


def share_repeating(rows: Sequence[Sequence[int]]) -> float:
    """Share of the texts in which the model only repeats itself; 0 of none."""
    return sum(repeats(row) for row in rows) / len(rows) if rows else 0.0
