"""How errors, records and reprs name links: names, settings as plain data, providers of a key."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import modulink

from .settings import Settings, changed

if TYPE_CHECKING:
    from .chain import Chain
    from .factories import LinkFactory

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80

providers: dict[str, list[str]] = {}
"""By context key, the links that add it without needing it, in the order they were defined."""


def name_of(each: Any) -> str:
    """The name of a link, a chain or any other callable."""
    return str(getattr(each, "__name__", type(each).__name__))


def chains_of(each: Any) -> dict[str, Chain]:
    """The settings of a link that are chains, by name: those that the link runs, as waves does."""
    return {
        name: value for name, value in _settings(each).items() if isinstance(value, modulink.Chain)
    }


def _settings(each: Any) -> dict[str, Any]:
    """The settings of a link by name; none for a plain function or a chain."""
    settings = getattr(each, "settings", None)
    return dict(settings) if isinstance(settings, Settings) else {}


def chain_settings(factory: LinkFactory[..., Any, Any]) -> list[str]:
    """Names of the settings that are chains, or None."""
    kinds = {name: field.annotation for name, field in factory.settings_type.model_fields.items()}
    return [name for name, kind in kinds.items() if _is_chain(kind)]


def _is_chain(kind: Any) -> bool:
    """Whether a type is a chain's, or one that may also be None."""
    if isinstance(kind, type):
        return issubclass(kind, modulink.Chain)
    if get_origin(kind) is Annotated:
        return _is_chain(get_args(kind)[0])
    return any(map(_is_chain, get_args(kind)))


def spelled_settings(each: Any) -> dict[str, Any]:
    """A link's settings as plain data, chains among them as a recipe lists their links."""
    chains = {name: _spelled_links(chain) for name, chain in chains_of(each).items()}
    return {**_settings(each), **chains}


def _spelled_links(chain: Chain) -> list[Any]:
    return [spelled_link(each) for each in chain.links]


def spelled_link(each: Any) -> Any:
    """A link with its settings as plain data, or a chain with its links."""
    if isinstance(each, modulink.Chain):
        return {"name": each.__name__, "links": _spelled_links(each)}
    settings = spelled_settings(each)
    return {name_of(each): settings} if settings else name_of(each)


def summary(each: Any) -> str:
    """A link as Python spells it, with the settings that differ from their defaults."""
    if isinstance(each, modulink.Chain):
        return repr(each)
    settings = getattr(each, "settings", None)
    if not isinstance(settings, Settings):
        return name_of(each)
    spelled = ", ".join(f"{name}={_shortened(value)}" for name, value in changed(settings).items())
    return f"{name_of(each)}({spelled})"


def _shortened(value: Any) -> str:
    return repr(value) if isinstance(value, modulink.Chain) else _short.repr(value)


def provided_by(key: str) -> str:
    """The links that provide a missing key, as the end of an error message."""
    names = [f"{name}()" for name in dict.fromkeys(providers.get(key, []))]
    return f"; {' or '.join(names)} provides it" if names else ""
