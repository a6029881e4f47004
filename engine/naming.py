"""How errors and records speak of links: their names, settings, and who gives a key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import modulink

if TYPE_CHECKING:
    from .chain import Chain
    from .factories import LinkFactory

providers: dict[str, list[str]] = {}
"""By context key, the links that give it without needing it, in the order they were made."""


def name_of(each: Any) -> str:
    """What a link, a chain or any other callable is called."""
    return str(getattr(each, "__name__", type(each).__name__))


def chains_of(each: Any) -> dict[str, Chain]:
    """Those settings of a link that are chains, by name: what it runs itself, as waves does."""
    settings: Mapping[str, Any] = getattr(each, "settings", {})
    return {name: value for name, value in settings.items() if isinstance(value, modulink.Chain)}


def chain_settings(factory: LinkFactory[...]) -> list[str]:
    """Names of the settings that must be chains."""
    kinds = {name: field.annotation for name, field in factory.schema.model_fields.items()}
    return [
        name
        for name, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, modulink.Chain)
    ]


def spelled_settings(each: Any) -> dict[str, Any]:
    """A link's settings as plain data: a chain among them as a recipe lists its links."""
    settings: Mapping[str, Any] = getattr(each, "settings", {})
    chains = {name: _spelled_links(chain) for name, chain in chains_of(each).items()}
    return {**settings, **chains}


def _spelled_links(chain: Chain) -> list[Any]:
    return [_spelled_link(each) for each in chain.links]


def _spelled_link(each: Any) -> Any:
    if isinstance(each, modulink.Chain):
        return {"name": each.__name__, "links": _spelled_links(each)}
    settings = spelled_settings(each)
    return {name_of(each): settings} if settings else name_of(each)


def mend(key: str) -> str:
    """Who provides a key that is missing, as the end of a sentence."""
    names = [f"{name}()" for name in dict.fromkeys(providers.get(key, []))]
    return f"; {' or '.join(names)} provides it" if names else ""
