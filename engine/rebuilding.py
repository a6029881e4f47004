"""A chain like another, some of its links with other settings; routes and middleware come along."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any

from ..errors import SettingError, did_you_mean
from . import Chain, Link, LinkFactory, chains_of, every_link

# What a chain is called that is a setting of a link, unless it has a name of its own.
BODY = "body"

Changes = Callable[[Link], Mapping[str, Any]]


def bind(factory: LinkFactory[...], settings: Mapping[str, Any]) -> Link:
    """A link with settings whose names a user typed.

    Raises:
        SettingError: a name is unknown (any string at all may come: ``self`` too), or a value
            is refused.
    """
    for name in settings:
        if name not in factory.schema.model_fields:
            mend = did_you_mean(name, factory.schema.model_fields)
            raise SettingError(f"{factory.name} has no setting '{name}'; {mend}")
    return factory(**settings)


def links_with_settings(chain: Chain) -> Iterator[Link]:
    """Links in running order, those of chains in the chain too; plain functions left out.

    A link that holds chains in its settings comes before their links.
    """
    return (each for each in every_link(chain.links) if _has_settings(each))


def _has_settings(each: Any) -> bool:
    return isinstance(getattr(each, "factory", None), LinkFactory)


def rebuilt(chain: Chain, changes: Changes) -> Chain:
    """A copy of the chain; ``changes`` says what to change, asked in `links_with_settings`' order.

    A link of which nothing changes is the same object; the chain given stays as it was.
    """
    return _with_links(chain, changes, {})


def _with_links(chain: Chain, changes: Changes, now: dict[int, list[Any]]) -> Chain:
    """A copy of the chain with its links' successors.

    ``now`` gathers what each old link became, by its id. One object that stood in two places may
    have become two, and routes and middleware tied to it then hold for both.
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
    elif _has_settings(each):
        successor = _with_settings(each, changes)
    else:
        successor = each
    known = now.setdefault(id(each), [])
    if not any(other is successor for other in known):
        known.append(successor)
    return successor


def _with_settings(each: Link, changes: Changes) -> Link:
    changed = dict(changes(each))
    for name, inner in chains_of(each).items():
        fresh = rebuilt(inner, changes)
        if any(a is not b for a, b in zip(inner.links, fresh.links, strict=True)):
            changed.setdefault(name, fresh)
    return bind(each.factory, {**each.settings, **changed}) if changed else each
