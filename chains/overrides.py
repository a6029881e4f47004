"""Settings changed by name: ``prune.sparsity`` of every prune, ``validate#2.max_rise`` of one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

from ..engine import Chain, Link, LinkFactory
from ..errors import SettingError, did_you_mean
from .library import LINKS, bind
from .plain_yaml import read_yaml

_ADDRESS = re.compile(r"(?P<link>[^.#\s]+)(?:#(?P<place>[1-9][0-9]{0,3}))?\.(?P<setting>[^.#\s]+)")


@dataclass(frozen=True)
class Address:
    """Where a setting is: the link's name, which of that name (None: every one), the setting."""

    link: str
    place: int | None
    setting: str

    @classmethod
    def parse(cls, key: str) -> Address:
        """Read ``link.setting`` or ``link#2.setting``.

        Raises:
            SettingError: it is neither.
        """
        found = _ADDRESS.fullmatch(key)
        if found is None:
            raise SettingError(
                f"{key!r} names no setting; write link.setting, as in prune.sparsity, "
                f"or link#2.setting for the second link of that name"
            )
        place = found["place"]
        return cls(found["link"], None if place is None else int(place), found["setting"])


def parse_assignment(text: str) -> tuple[str, Any]:
    """``"prune.sparsity=0.3"`` as ``("prune.sparsity", 0.3)``; the value is read as YAML.

    Raises:
        SettingError: there is no ``=``, the left side names no setting, the right side no value.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise SettingError(f"{text!r} sets nothing; write link.setting=value")
    Address.parse(key)
    if not value.strip():
        raise SettingError(f"{key}= has no value; write {key}=null if none is meant")
    try:
        return key, read_yaml(value, source=key)
    except SettingError as error:
        raise SettingError(f"{error}; put text with signs of its own in quotes") from None


def configure(chain: Chain, changes: Mapping[str, Any]) -> Chain:
    """A chain like this one, with the settings named in ``changes`` replaced.

    ``link.setting`` reaches every link of that name, those of nested chains too;
    ``link#2.setting`` the second in running order, and wins. Middleware and routes come along;
    links that take over where a route leads are not reached. The chain given stays as it was.

    Raises:
        SettingError: no such link or setting in this chain, or a value is refused.
    """
    wanted = {Address.parse(key): value for key, value in changes.items()}
    names = [each.__name__ for each in _links_inside(chain)]
    for address in wanted:
        _check_present(address, names, chain)
    seen: dict[str, int] = {}
    rebuilt = []
    for each in _links_inside(chain):
        seen[each.__name__] = seen.get(each.__name__, 0) + 1
        rebuilt.append(_rebuilt(each, _changes_of(each.__name__, seen[each.__name__], wanted)))
    return _with_links(chain, iter(rebuilt), {})


def _links_inside(chain: Chain) -> Iterator[Link]:
    """Links with settings, in running order, nested chains entered; plain functions left out."""
    for each in chain.links:
        if isinstance(each, Chain):
            yield from _links_inside(each)
        elif _has_settings(each):
            yield each


def _has_settings(each: Any) -> bool:
    return isinstance(getattr(each, "factory", None), LinkFactory)


def _check_present(address: Address, names: list[str], chain: Chain) -> None:
    link, count = address.link, names.count(address.link)
    where = f"chain '{chain.__name__}'"
    if count == 0 and link in LINKS:
        there = ", ".join(dict.fromkeys(names)) or "none"
        raise SettingError(
            f"{where} has no {link}, so {link}.{address.setting} sets nothing; its links: {there}"
        )
    if count == 0:
        raise SettingError(f"{where} has no link '{link}'; {did_you_mean(link, names)}")
    if address.place is not None and address.place > count:
        links = f"{link} only once" if count == 1 else f"only {count} links {link}"
        raise SettingError(f"{where} has {links}; there is no {link}#{address.place}")


def _changes_of(name: str, place: int, wanted: Mapping[Address, Any]) -> dict[str, Any]:
    """What is to change at the ``place``-th link of this name; the nearer address wins."""
    mine = [each for each in wanted if each.link == name and each.place in (None, place)]
    mine.sort(key=lambda address: address.place is not None)
    return {address.setting: wanted[address] for address in mine}


def _rebuilt(each: Link, changes: Mapping[str, Any]) -> Link:
    return bind(each.factory, {**each.settings, **changes}) if changes else each


def _with_links(chain: Chain, fresh: Iterator[Link], now: dict[int, list[Any]]) -> Chain:
    """A copy of the chain with its configurable links taken from ``fresh``, in order.

    ``now`` gathers what each old link became, by its id. One object that stood in two places may
    have become two, and routes and middleware tied to it then hold for both.
    """
    made = copy(chain)
    made._links = [_successor(each, fresh, now) for each in chain.links]
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


def _successor(each: Any, fresh: Iterator[Link], now: dict[int, list[Any]]) -> Any:
    if isinstance(each, Chain):
        successor: Any = _with_links(each, fresh, now)
    else:
        successor = next(fresh) if _has_settings(each) else each
    known = now.setdefault(id(each), [])
    if not any(other is successor for other in known):
        known.append(successor)
    return successor
