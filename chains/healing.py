"""Predefined chains with trained scales, or without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engine import Chain, Link
from ..engine.rebuilding import links_with_settings, rebuilt
from ..links import calibrate, heal, quantize, validate


def with_healed_scales(chain: Chain) -> Chain:
    """A chain like this one, with ``heal(method="scales")`` after its quantize.

    Args:
        chain: one with a quantize, which validate follows, such as quantize-only.
    """
    place = _factories(chain).index(quantize) + 1
    links = [*chain.links[:place], heal(method="scales"), *chain.links[place:]]
    return with_text_to_heal(Chain(*links, name=chain.__name__))


def without_healing(chain: Chain) -> Chain:
    """A chain like this one, without heal and the validate after it.

    Args:
        chain: one that evaluates before it heals, such as fit.
    """
    links, factories = list(chain.links), _factories(chain)
    if heal not in factories:
        return chain
    place = factories.index(heal)
    judged = factories[place + 1 : place + 2] == [validate]
    kept = [*links[:place], *links[place + 1 + judged :]]
    return with_text_to_heal(Chain(*kept, name=chain.__name__))


def with_text_to_heal(chain: Chain) -> Chain:
    """A chain like this one that reads healing windows if a link of it heals, and else just one.

    A number of windows that suits is kept.
    """
    heals = any(each.factory is heal for each in links_with_settings(chain))

    def changes(each: Link[Any]) -> Mapping[str, Any]:
        if each.factory is not calibrate or heals == (each.settings.healing_windows > 1):
            return {}
        return {"healing_windows": calibrate().settings.healing_windows if heals else 1}

    return rebuilt(chain, changes)


def _factories(chain: Chain) -> list[object]:
    return [getattr(each, "factory", None) for each in chain.links]
