"""Whether a row of links can follow one another, told before any of them runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ChainError
from .factories import LinkFactory
from .naming import name_of

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def wire(row: Sequence[Any]) -> tuple[frozenset[str], frozenset[str], bool]:
    """What a row of links needs from outside, gives, and whether it opens; refuses a wrong order.

    After a link that opens any key may be there, so the check waits until it has run.
    """
    needs: set[str] = set()
    gives: set[str] = set()
    opens = False
    for place, each in enumerate(row):
        _check_link(each, place)
        wanted: frozenset[str] = frozenset() if opens else getattr(each, "needs", frozenset())
        missing = wanted - gives
        for key in sorted(missing):
            _check_order(each, key, row[place + 1 :])
        needs |= missing
        gives |= getattr(each, "gives", frozenset())
        opens |= getattr(each, "opens", True)
    return frozenset(needs), frozenset(gives), opens


def _check_link(each: Any, place: int) -> None:
    if isinstance(each, LinkFactory):
        raise ChainError(f"{each.name} is a factory: write {each.name}(), with its settings")
    if not callable(each):
        raise ChainError(f"place {place + 1} of the chain holds {each!r}, which is no link")


def _check_order(each: Any, key: str, rest: Sequence[Any]) -> None:
    for later, other in enumerate(rest, 1):
        # A link that needs the key itself hands it on: prune gives a checkpoint, but is no source.
        if key in getattr(other, "gives", frozenset()) - getattr(other, "needs", frozenset()):
            count = _NUMBERS[later] if later < len(_NUMBERS) else str(later)
            places = "place" if later == 1 else "places"
            raise ChainError(
                f"{name_of(each)} needs '{key}'; {name_of(other)}(), {count} {places} later, "
                f"provides it: put it earlier"
            )
