"""Whether links can follow one another in a given order, checked when a chain is composed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import modulink

from ..errors import ChainError
from .bound import Link
from .factories import LinkFactory
from .naming import chains_of, name_of

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def wire(links: Sequence[Any]) -> tuple[frozenset[str], frozenset[str], bool]:
    """The keys a row of links needs from outside and adds, and whether it is open-ended.

    After an open-ended link any key may be in the context, so later needs are checked when the
    chain runs.

    Raises:
        ChainError: a link needs a key that only a later one provides, cannot follow an earlier
            one, or is not a link.
    """
    needs: set[str] = set()
    adds: set[str] = set()
    open_ended = False
    for position, each in enumerate(links):
        _check_link(each, position)
        wanted: frozenset[str] = frozenset() if open_ended else getattr(each, "needs", frozenset())
        missing = wanted - adds
        for key in sorted(missing):
            _check_key(each, key, links[position + 1 :])
        needs |= missing
        adds |= getattr(each, "adds", frozenset())
        open_ended |= getattr(each, "open_ended", True)
    check_order(links)
    return frozenset(needs), frozenset(adds), open_ended


def every_link(links: Iterable[Any]) -> Iterator[Any]:
    """Links and functions in running order, with those of nested chains in the chain's place.

    A link that holds chains in its settings comes before their links.
    """
    for each in links:
        if isinstance(each, modulink.Chain):
            yield from every_link(getattr(each, "links", ()))
        else:
            yield each
            for inner in chains_of(each).values():
                yield from every_link(getattr(inner, "links", ()))


def check_order(links: Iterable[Any]) -> None:
    """Call the ``follows`` hook of each link with the links before it.

    Raises:
        ChainError: a link cannot follow an earlier one.
    """
    earlier: list[Any] = []
    for each in every_link(links):
        if isinstance(each, Link) and each.factory.hooks.follows is not None:
            each.factory.hooks.follows(each.settings, tuple(earlier))
        earlier.append(each)


def _check_link(each: Any, position: int) -> None:
    if isinstance(each, LinkFactory):
        raise ChainError(f"{each.name} is a factory: write {each.name}(), with its settings")
    if not callable(each):
        raise ChainError(f"position {position + 1} of the chain holds {each!r}, which is no link")


def _check_key(each: Any, key: str, rest: Sequence[Any]) -> None:
    for later, other in enumerate(rest, 1):
        # A link that needs the key itself passes it on: prune adds a checkpoint but is no source.
        if key in getattr(other, "adds", frozenset()) - getattr(other, "needs", frozenset()):
            count = _NUMBERS[later] if later < len(_NUMBERS) else str(later)
            places = "place" if later == 1 else "places"
            raise ChainError(
                f"{name_of(each)} needs '{key}'; {name_of(other)}(), {count} {places} later, "
                f"provides it: put it earlier"
            )
