"""Recipes: a chain written in YAML, as a predefined one with changes or as a list of links.

::

    chain: bird-bone              links:
    set:                            - load: {dtype: bfloat16}
      waves.step: 0.05              - profile
                                    - score
                                    - waves: {body: [prune, heal, validate]}
                                    - links: [quantize, validate]   # a chain within the chain

Names and settings are those of Python. What the recipe leaves open, the model, the text and the
folder, is filled in by whoever builds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...engine import chain_settings
from ...engine.rebuilding import BODY
from ...errors import ChainError, SettingError, did_you_mean
from ..library import LINKS
from ..overrides import Address
from ..predefined import CHAINS
from ..yaml import Items, Table, read_yaml

_MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Entry:
    """One link of a recipe: its name, the settings given, and where it stands, for messages.

    A setting that is a chain, as the body of waves, is a `Recipe` of its own.
    """

    link: str
    settings: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class Recipe:
    """A recipe whose names are known to be right; values are checked by `build`.

    Attributes:
        where: the file, and for a chain within a chain the line.
        chain: the predefined chain it starts from; None where it lists links itself.
        changes: ``link.setting`` to value, over the predefined chain.
        name: of a chain that lists its links.
        links: in order; a recipe among them is a chain within the chain.
    """

    where: str
    chain: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    name: str = "recipe"
    links: tuple[Entry | Recipe, ...] = ()


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe file of at most 1 MB.

    Raises:
        SettingError: the file cannot be read, is no plain YAML, or names a key, chain or link
            that does not exist; with the line where it stands.
    """
    source = f"recipe '{path}'"
    table = read_yaml(_read_text(path, source), source=source)
    if not isinstance(table, Table):
        raise SettingError(f"{source} is {_kind(table)}; it must be a table with chain or links")
    return _chosen(table, source) if "chain" in table else _listed(table, source, source)


def _read_text(path: str | Path, source: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingError(f"{source} is not UTF-8 text: {error.reason}") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"{source} cannot be read: {reason}") from None
    if len(content) > _MAX_BYTES:
        raise SettingError(f"{source} is larger than 1 MB; is it a recipe?")
    return text


def _chosen(table: Table, source: str) -> Recipe:
    """A predefined chain with changes."""
    _check_keys(table, ("chain", "set"), source)
    name, changes = table["chain"], table.get("set")
    if not isinstance(name, str) or name not in CHAINS:
        mend = did_you_mean(str(name), CHAINS)
        raise SettingError(f"{_at(source, table, 'chain')}: no chain {name!r}; {mend}")
    changes = Table() if changes is None else changes
    if not isinstance(changes, Table):
        where = _at(source, table, "set")
        raise SettingError(f"{where}: set is {_kind(changes)}; write link.setting: value below it")
    for key in changes:
        with located(_at(source, changes, key)):
            Address.parse(key)
    return Recipe(source, chain=name, changes=changes)


def _listed(table: Table, source: str, where: str) -> Recipe:
    """Links one by one."""
    _check_keys(table, ("links", "name"), source)
    rows, name = table.get("links"), table.get("name", "recipe")
    if not isinstance(name, str):
        raise SettingError(f"{_at(source, table, 'name')}: the name is {_kind(name)}, not text")
    at = _at(source, table, "links") if "links" in table else where
    return Recipe(where, name=name, links=_rows(rows, source, "links", at))


def _rows(rows: Any, source: str, key: str, where: str) -> tuple[Entry | Recipe, ...]:
    """The links below ``key``, one by one."""
    if not isinstance(rows, Items) or not rows:
        raise SettingError(f"{where}: {key} is {_kind(rows)}; list the links, each after '- '")
    return tuple(_entry(row, source, line) for row, line in zip(rows, rows.lines, strict=True))


def _entry(row: Any, source: str, line: int) -> Entry | Recipe:
    where = f"{source}, line {line}"
    if isinstance(row, Table) and "links" in row:
        return _listed(row, source, where)
    if isinstance(row, Table) and len(row) == 1:
        [(link, settings)] = row.items()
    else:
        link, settings = row, None
    if not isinstance(link, str):
        raise SettingError(f"{where}: {_kind(link)} is no link; write a name, or name: settings")
    if link not in LINKS:
        raise SettingError(f"{where}: no link '{link}'; {did_you_mean(link, LINKS)}")
    settings = Table() if settings is None else settings
    if not isinstance(settings, Table):
        raise SettingError(
            f"{where}: the settings of {link} are {_kind(settings)}; write {link}: {{name: value}}"
        )
    chains = {
        name: _setting_chain(name, settings[name], source, _at(source, settings, name))
        for name in chain_settings(LINKS[link])
        if name in settings
    }
    return Entry(link, {**settings, **chains}, where)


def _setting_chain(name: str, value: Any, source: str, where: str) -> Recipe:
    """A chain that is a setting: a list of links, or a table with links and name."""
    if isinstance(value, Table):
        return _listed(value, source, where)
    return Recipe(where, name=BODY, links=_rows(value, source, name, where))


def _check_keys(table: Table, known: tuple[str, ...], source: str) -> None:
    for key in table:
        if key not in known:
            where = _at(source, table, key)
            raise SettingError(f"{where}: no key '{key}' beside {known[0]}; {_mend(key, known)}")


def _mend(key: str, known: tuple[str, ...]) -> str:
    if key in ("links", "name", "set", "chain"):
        return "a recipe is either chain and set, or links and name"
    return did_you_mean(key, known)


def _at(source: str, table: Table, key: str) -> str:
    return f"{source}, line {table.lines[key]}"


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {type(None): "empty", Table: "a table", Items: "a list", str: "text"}
    if isinstance(value, Items) and not value:
        return "an empty list"
    if isinstance(value, Table) and len(value) > 1:
        return f"a table of {len(value)} keys"
    return kinds.get(type(value), repr(value))


@contextmanager
def located(where: str) -> Iterator[None]:
    """Errors about what stands in a recipe say where."""
    try:
        yield
    except (SettingError, ChainError) as error:
        raise type(error)(f"{where}: {error}") from error
