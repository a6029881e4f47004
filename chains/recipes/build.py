"""Build chains from recipes: fill in what they leave open, and name the line of an error."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...engine import Chain, Link
from ...errors import SettingError
from ...texts import DataSetting
from ..library import LINKS
from ..overrides import configure
from ..predefined import CHAINS
from .recipe import Entry, Recipe, located

# Settings filled in if the recipe does not set them, with the argument of `build` for each.
_OPEN = {"load.model": "model", "calibrate.data": "data", "save.path": "out"}


def build(
    recipe: Recipe,
    *,
    model: str | None = None,
    out: str | None = None,
    data: DataSetting | None = None,
) -> Chain:
    """The recipe's chain, what it leaves open filled in; warns of an argument it has no use for.

    Args:
        recipe: from `load_recipe`.
        model: ``load.model``.
        out: ``save.path``.
        data: ``calibrate.data``; None for the link's own default.

    Raises:
        SettingError: a setting is unknown, refused, or still open.
        ChainError: the links stand in a wrong order.
    """
    values = {"load.model": model, "save.path": out, "calibrate.data": data}
    given = {key: value for key, value in values.items() if value is not None}
    if recipe.chain is None:
        chain = _build_listed(recipe, given)
        _warn_of_unused(recipe, given)
        return chain
    with located(recipe.where):
        return _build_chosen(recipe, recipe.chain, given)


def _entries(recipe: Recipe) -> Iterator[Entry]:
    for each in recipe.links:
        if isinstance(each, Entry):
            yield each
            for inner in _chains_in(each).values():
                yield from _entries(inner)
        else:
            yield from _entries(each)


def _chains_in(entry: Entry) -> dict[str, Recipe]:
    return {name: value for name, value in entry.settings.items() if isinstance(value, Recipe)}


def _build_listed(recipe: Recipe, given: Mapping[str, DataSetting]) -> Chain:
    links = [
        _build_link(each, given) if isinstance(each, Entry) else _build_listed(each, given)
        for each in recipe.links
    ]
    with located(recipe.where):
        return Chain(*links, name=recipe.name)


def _build_link(entry: Entry, given: Mapping[str, DataSetting]) -> Link[Any]:
    factory = entry.factory
    chains = {name: _build_listed(inner, given) for name, inner in _chains_in(entry).items()}
    settings = {**entry.settings, **chains}
    with located(entry.where):
        for key in _OPEN:
            link, setting = key.split(".")
            if factory is LINKS[link] and setting not in settings:
                required = factory.settings_type.model_fields[setting].is_required()
                if key in given:
                    settings[setting] = given[key]
                elif required:
                    raise SettingError(_still_open(key))
        return factory.bind(settings)


def _build_chosen(recipe: Recipe, name: str, given: Mapping[str, DataSetting]) -> Chain:
    values: dict[str, Any] = dict(given)
    for key, argument in _OPEN.items():
        link, setting = key.split(".")
        for spelling in (key, f"{link}#1.{setting}"):
            if spelling in recipe.changes:
                _warn_if_other(recipe.where, key, argument, recipe.changes[spelling], given)
                values[key] = recipe.changes[spelling]
    for key in ("load.model", "save.path"):
        if key not in values:
            raise SettingError(_still_open(key))
    make: Callable[..., Chain] = CHAINS[name]
    chain = make(**{_OPEN[key]: value for key, value in values.items()})
    return configure(chain, recipe.changes)


def _still_open(key: str) -> str:
    return f"{key} is not set; set it in the recipe, or give --{_OPEN[key]} ({_OPEN[key]}=)"


def _warn_of_unused(recipe: Recipe, given: Mapping[str, DataSetting]) -> None:
    entries = list(_entries(recipe))
    for key, argument in _OPEN.items():
        link, setting = key.split(".")
        mine = [each for each in entries if each.factory is LINKS[link]]
        if key in given and not mine:
            warnings.warn(
                f"{recipe.where} has no {link}: {argument}={given[key]!r} is not used",
                stacklevel=3,
            )
        for each in mine:
            if setting in each.settings:
                _warn_if_other(each.where, key, argument, each.settings[setting], given)


def _warn_if_other(
    where: str, key: str, argument: str, found: Any, given: Mapping[str, DataSetting]
) -> None:
    found = tuple(found) if isinstance(found, list) else found
    if key in given and given[key] != found:
        warnings.warn(
            f"{where} sets {key} to {found!r}: {argument}={given[key]!r} is not used",
            stacklevel=4,
        )
