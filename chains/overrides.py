"""Settings changed by name: ``prune.sparsity`` of every prune, ``validate#2.max_rise`` of one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..engine import Chain, Link, check_order
from ..engine.rebuilding import links_with_settings, rebuilt
from ..errors import SettingError, did_you_mean
from .library import LINKS
from .yaml import read_yaml

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

    ``link.setting`` reaches every link of that name, those of nested chains and of the bodies of
    waves too; ``link#2.setting`` the second in running order, and wins. Middleware and routes come
    along; links that take over where a route leads are not reached. The chain given stays as it
    was.

    Raises:
        SettingError: no such link or setting in this chain, or a value is refused.
        ChainError: what is changed no longer goes with the order of the links.
    """
    wanted = {Address.parse(key): value for key, value in changes.items()}
    names = [each.__name__ for each in links_with_settings(chain)]
    for address in wanted:
        _check_present(address, names, chain)
    seen: Counter[str] = Counter()

    def changes_of(each: Link[Any]) -> dict[str, Any]:
        seen[each.__name__] += 1
        return _changes_of(each.__name__, seen[each.__name__], wanted)

    changed = rebuilt(chain, changes_of)
    check_order(changed.links)
    return changed


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
