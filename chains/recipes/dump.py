"""A chain as the text of a recipe, every setting spelled out."""

from __future__ import annotations

from typing import Any

from ...engine import Chain, Link, chains_of
from ...engine.rebuilding import BODY
from ...errors import ChainError, SettingError
from ..yaml import write_yaml
from .own_links import name_in_recipe


def dump(chain: Chain) -> str:
    """A recipe that builds this chain again; middleware only watches and is not part of it.

    Raises:
        ChainError: the chain holds what a recipe cannot say: a plain function, a link of the
            user's own, a route, or a setting that is not plain data.
    """
    try:
        return write_yaml(_table(chain))
    except SettingError as error:
        raise _refusal(chain, f"a setting is {error}") from None


def _table(chain: Chain) -> dict[str, Any]:
    for route in chain._connections:
        source = _name(route["source"])
        raise _refusal(chain, f"it has a route from '{source}', which only Python can say")
    return {"name": chain.__name__, "links": [_entry(each, chain) for each in chain.links]}


def _entry(each: Any, chain: Chain) -> Any:
    if isinstance(each, Chain):
        return _table(each)
    factory = each.factory if isinstance(each, Link) else None
    name = None if factory is None else name_in_recipe(factory)
    if name is None:
        raise _refusal(chain, f"'{_name(each)}' is not a link that can be imported from a module")
    settings = {**dict(each.settings), **{n: _body(inner) for n, inner in chains_of(each).items()}}
    return {name: settings} if settings else name


def _body(chain: Chain) -> Any:
    """A chain that is a setting: its links alone where it has the name they give it."""
    table = _table(chain)
    return table["links"] if chain.__name__ == BODY else table


def _name(each: Any) -> str:
    return str(getattr(each, "__name__", type(each).__name__))


def _refusal(chain: Chain, reason: str) -> ChainError:
    return ChainError(f"chain '{chain.__name__}' cannot be written as a recipe: {reason}")
