"""Whether a row of links can follow one another, told before any of them runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import modulink

from ..errors import ChainError
from .factories import LinkFactory
from .naming import chains_of, name_of

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
    check_following(row)
    return frozenset(needs), frozenset(gives), opens


def every_link(row: Iterable[Any]) -> Iterator[Any]:
    """Links and functions in running order, those of chains in the row in the chain's place.

    A link that holds chains in its settings comes before their links.
    """
    for each in row:
        if isinstance(each, modulink.Chain):
            yield from every_link(getattr(each, "links", ()))
        else:
            yield each
            for inner in chains_of(each).values():
                yield from every_link(getattr(inner, "links", ()))


def check_following(row: Iterable[Any]) -> None:
    """Ask each link of a row whether it can follow those before it.

    Raises:
        ChainError: as the link says itself.
    """
    earlier: list[Any] = []
    for each in every_link(row):
        if (follows := getattr(getattr(each, "factory", None), "follows", None)) is not None:
            follows(each.settings, tuple(earlier))
        earlier.append(each)


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
