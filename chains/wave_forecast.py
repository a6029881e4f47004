"""What waves expect to cost: their body, as often as a step goes into the way to the target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..contexts.forecast import Forecast
from ..engine import Chain, Link
from ..models.footprint import by_shapes
from .rebuilding import links_with_settings
from .wave_body import bound, prunes_of
from .wave_cuts import Cutter


def waves_forecast(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> Forecast:
    """Every wave as the first costs, on the largest model; without a target, as many as may be."""
    first = Forecast()
    for _, _, told in _first_wave(ctx, settings):
        first = first.then(told)
    whole = first
    for _ in range(_count(settings) - 1):
        whole = whole.then(first)
    return whole


def waves_bytes(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """What the link of the body needs that needs most."""
    needs = [
        each.factory.need_bytes(before, each.settings)
        for each, before, _ in _first_wave(ctx, settings)
        if each.factory.need_bytes is not None
    ]
    return max(needs, default=0)


def _first_wave(
    ctx: Mapping[str, Any], settings: Mapping[str, Any]
) -> Iterator[tuple[Link, Mapping[str, Any], Forecast]]:
    """Each link of the body with the outline of what it would get and what it says of itself."""
    for each in links_with_settings(_bound(ctx, settings)):
        told = Forecast()
        if each.factory.foretell is not None:
            told = each.factory.foretell(ctx, each.settings)
        yield each, ctx, told
        ctx = {**ctx, **told.adds}


def _bound(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> Chain:
    """The body with every prune set to what a whole step takes, in sizes that can be had."""
    body, checkpoint = settings["body"], ctx["checkpoint"]
    prunes = prunes_of(body)
    cut = Cutter(checkpoint, by_shapes(checkpoint), prunes).cut(settings["step"])
    sparsities = (settings["step"],) * len(prunes) if cut is None else cut.sparsities
    return bound(body, sparsities=sparsities, healing=1)


def _count(settings: Mapping[str, Any]) -> int:
    """Waves of one step to the target; as many as there may be where there is none."""
    if settings["target"] is None:
        return int(settings["max_waves"])
    steps = math.log(settings["target"]) / math.log1p(-settings["step"])
    return max(1, min(math.ceil(steps), int(settings["max_waves"])))
