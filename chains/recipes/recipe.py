"""Recipes: a chain in YAML, either a predefined one with changes or a list of links.

::

    chain: bird-bone              links:
    set:                            - load: {dtype: bfloat16}
      waves.step: 0.05              - profile
                                    - score
                                    - waves: {body: [prune, heal, validate]}
                                    - links: [quantize, validate]   # a chain within the chain

Names and settings are those of Python. The model, the text and the output may be left open; `build`
fills them in. A link of the user's own is written ``module:name``; see `load_recipe`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...engine import LinkFactory, chain_settings
from ...engine.rebuilding import BODY
from ...errors import ChainError, SettingError, did_you_mean
from ..overrides import Address
from ..predefined import CHAINS
from ..yaml import Items, Table, read_yaml
from .own_links import find_link

_MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Entry:
    """One link of a recipe: its factory, the settings given, and its line, for messages.

    A setting that is a chain, such as the body of waves, is a `Recipe`.
    """

    factory: LinkFactory[..., Any, Any]
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


def load_recipe(path: str | Path, *, imports: Sequence[str] = ()) -> Recipe:
    """Read a recipe file of at most 1 MB.

    Args:
        imports: modules whose links the recipe may use as ``module:name``. They are imported, which
            runs their code; a recipe alone never runs code.

    Raises:
        SettingError: the file cannot be read, is not plain YAML, or names a key, chain or link
            that does not exist; the message has the line.
    """
    source = f"recipe '{path}'"
    table = read_yaml(_read_text(path, source), source=source)
    if not isinstance(table, Table):
        raise SettingError(f"{source} is {_kind(table)}; it must be a table with chain or links")
    if "chain" in table:
        return _chosen(table, source)
    return _Reader(source, tuple(imports)).listed(table, source)


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
        hint = did_you_mean(str(name), CHAINS)
        raise SettingError(f"{_at(source, table, 'chain')}: no chain {name!r}; {hint}")
    changes = Table() if changes is None else changes
    if not isinstance(changes, Table):
        where = _at(source, table, "set")
        raise SettingError(f"{where}: set is {_kind(changes)}; write link.setting: value below it")
    for key in changes:
        with located(_at(source, changes, key)):
            Address.parse(key)
    return Recipe(source, chain=name, changes=changes)


@dataclass(frozen=True)
class _Reader:
    """Reads the links of one recipe.

    Attributes:
        source: what messages call the recipe.
        imports: the modules whose links it may use.
    """

    source: str
    imports: tuple[str, ...]

    def listed(self, table: Table, where: str) -> Recipe:
        """A table with links and a name."""
        _check_keys(table, ("links", "name"), self.source)
        rows, name = table.get("links"), table.get("name", "recipe")
        if not isinstance(name, str):
            at = _at(self.source, table, "name")
            raise SettingError(f"{at}: the name is {_kind(name)}, not text")
        at = _at(self.source, table, "links") if "links" in table else where
        return Recipe(where, name=name, links=self._rows(rows, "links", at))

    def _rows(self, rows: Any, key: str, where: str) -> tuple[Entry | Recipe, ...]:
        """The links below ``key``, one by one."""
        if not isinstance(rows, Items) or not rows:
            raise SettingError(f"{where}: {key} is {_kind(rows)}; list the links, each after '- '")
        return tuple(self._entry(row, line) for row, line in zip(rows, rows.lines, strict=True))

    def _entry(self, row: Any, line: int) -> Entry | Recipe:
        where = f"{self.source}, line {line}"
        if isinstance(row, Table) and "links" in row:
            return self.listed(row, where)
        if isinstance(row, Table) and len(row) == 1:
            [(name, settings)] = row.items()
        else:
            name, settings = row, None
        if not isinstance(name, str):
            raise SettingError(
                f"{where}: {_kind(name)} is not a link; write a name, or name: settings"
            )
        with located(where):
            factory = find_link(name, self.imports)
        settings = Table() if settings is None else settings
        if not isinstance(settings, Table):
            raise SettingError(
                f"{where}: the settings of {name} are {_kind(settings)}; "
                f"write {name}: {{name: value}}"
            )
        fields = factory.settings_type.model_fields
        chains = {
            setting: self._chain(setting, settings[setting], _at(self.source, settings, setting))
            for setting in chain_settings(factory)
            if setting in settings
            and (settings[setting] is not None or fields[setting].is_required())
        }
        return Entry(factory, {**settings, **chains}, where)

    def _chain(self, name: str, value: Any, where: str) -> Recipe:
        """A chain that is a setting: a list of links, or a table with links and a name."""
        if isinstance(value, Table):
            return self.listed(value, where)
        return Recipe(where, name=BODY, links=self._rows(value, name, where))


def _check_keys(table: Table, known: tuple[str, ...], source: str) -> None:
    for key in table:
        if key not in known:
            where = _at(source, table, key)
            raise SettingError(f"{where}: no key '{key}' beside {known[0]}; {_hint(key, known)}")


def _hint(key: str, known: tuple[str, ...]) -> str:
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
