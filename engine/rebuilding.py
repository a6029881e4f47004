"""A copy of a chain in which some links have other settings; routes and middleware are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any

from . import Chain, Link, chains_of, every_link

# Name of a chain that is a setting of a link, unless it has a name of its own.
BODY = "body"

Changes = Callable[[Link[Any]], Mapping[str, Any]]


def links_with_settings(chain: Chain) -> Iterator[Link[Any]]:
    """Links in running order, those of nested chains too, without plain functions.

    A link that holds chains in its settings comes before their links.
    """
    return (each for each in every_link(chain.links) if isinstance(each, Link))


def rebuilt(chain: Chain, changes: Changes) -> Chain:
    """A copy of the chain; ``changes(link)`` returns the settings to change, in running order.

    A link without changes stays the same object; the input chain is not changed.

    Raises:
        SettingError: an unknown setting, or a value that is refused.
    """
    return _with_links(chain, changes, {})


def _with_links(chain: Chain, changes: Changes, now: dict[int, list[Any]]) -> Chain:
    """A copy of the chain with its links' successors.

    ``now`` collects the successors of each link, by its id. One object that is in two places may
    get two, and routes and middleware attached to it are then attached to both.
    """
    made = copy(chain)
    made._links = [_successor(each, changes, now) for each in chain.links]
    made._middleware = list(chain._middleware)
    made._tied = [
        (middleware, successor, hooks)
        for middleware, on, hooks in chain._tied
        for successor in now.get(id(on), [on])
    ]
    made._connections = [
        {**route, "source": source, "target": now.get(id(route["target"]), [route["target"]])[0]}
        for route in chain._connections
        for source in now.get(id(route["source"]), [route["source"]])
    ]
    return made


def _successor(each: Any, changes: Changes, now: dict[int, list[Any]]) -> Any:
    if isinstance(each, Chain):
        successor: Any = _with_links(each, changes, now)
    elif isinstance(each, Link):
        successor = _with_settings(each, changes)
    else:
        successor = each
    known = now.setdefault(id(each), [])
    if not any(other is successor for other in known):
        known.append(successor)
    return successor


def _with_settings(each: Link[Any], changes: Changes) -> Link[Any]:
    changed = dict(changes(each))
    for name, inner in chains_of(each).items():
        fresh = rebuilt(inner, changes)
        if any(a is not b for a, b in zip(inner.links, fresh.links, strict=True)):
            changed.setdefault(name, fresh)
    return each.factory.bind({**dict(each.settings), **changed}) if changed else each
