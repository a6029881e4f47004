"""A chain as the text of a recipe, every setting spelled out."""

from __future__ import annotations

from typing import Any

from ..engine import Chain, LinkFactory
from ..errors import ChainError, SettingError
from .library import LINKS
from .plain_yaml import write_yaml


def dump(chain: Chain) -> str:
    """A recipe that builds this chain again; middleware only watches and is not part of it.

    Raises:
        ChainError: the chain holds what a recipe cannot say: a plain function, a link of the
            user's own, a route, or a setting that is not plain data.
    """
    try:
        return write_yaml(_table(chain))
    except SettingError as error:
        raise ChainError(
            f"chain '{chain.__name__}' cannot be written as a recipe: {error}"
        ) from None


def _table(chain: Chain) -> dict[str, Any]:
    for route in chain._connections:
        source = route["source"].__name__
        raise ChainError(
            f"chain '{chain.__name__}' cannot be written as a recipe: it has a route from "
            f"'{source}', which only Python can say"
        )
    return {"name": chain.__name__, "links": [_entry(each, chain) for each in chain.links]}


def _entry(each: Any, chain: Chain) -> Any:
    if isinstance(each, Chain):
        return _table(each)
    factory: LinkFactory[...] | None = getattr(each, "factory", None)
    if factory is None or LINKS.get(factory.name) is not factory:
        name = getattr(each, "__name__", type(each).__name__)
        raise ChainError(
            f"chain '{chain.__name__}' cannot be written as a recipe: '{name}' is not one of "
            f"bird-bone's links"
        )
    return {factory.name: dict(each.settings)} if each.settings else factory.name
