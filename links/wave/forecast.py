"""The cost of waves: one wave after another in outline, as if each were kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...contexts.flow import Validatable
from ...contexts.forecast import Forecast
from ...engine import Chain
from ...engine.rebuilding import links_with_settings
from ...models.evaluation.footprint import Footprint, by_shapes
from .body import bound, judging, prunes_of
from .context_bytes import context_bytes
from .course import Course
from .cuts import Cutter
from .settings import WavesSettings

# Waves computed in outline; later waves are taken to cost as much as the last of these.
_OUTLINED = 3
# The wave with the highest peak: the second, which keeps the model to go back to.
_PEAK = 2


@dataclass(frozen=True)
class _Outlined:
    """A wave in outline.

    Attributes:
        forecast: its work, and the keys it adds.
        context: the context after it.
        weight: the footprint of the model it leaves.
        needed_bytes: peak memory, including the context it started from.
    """

    forecast: Forecast
    context: Mapping[str, Any]
    weight: Footprint
    needed_bytes: int


def waves_forecast(ctx: Validatable, settings: WavesSettings) -> Forecast:
    """The evaluation of the input model, then waves of one step each."""
    course = Course(by_shapes(ctx["dense"]), settings.of, settings.target)
    first = _run_through(judging(settings.body), ctx)
    whole, weight, last = first.forecast, by_shapes(ctx["checkpoint"]), first
    count, peak = 0, 0
    for wave in _waves({**ctx, **first.forecast.adds}, settings, course):
        count, last, weight = count + 1, wave, wave.weight
        whole = whole.then(wave.forecast)
        if count <= _PEAK:
            peak = max(peak, wave.needed_bytes)
    cutter = Cutter(last.context["checkpoint"], weight, prunes_of(settings.body))
    more = 0 if course.reached(cutter) else _more(course, weight, count, settings)
    for _ in range(more):
        whole = whole.then(replace(last.forecast, adds={}))
    return replace(
        whole,
        guessed=True,
        notes=(_note(course, count + more), *whole.notes),
        memory_bytes=max(0, peak - context_bytes(ctx)),
    )


def _waves(ctx: Mapping[str, Any], settings: WavesSettings, course: Course) -> Iterator[_Outlined]:
    """The first waves, each on the outline that the one before leaves, up to the target."""
    prunes = prunes_of(settings.body)
    weight = by_shapes(ctx["checkpoint"])
    for _ in range(min(_OUTLINED, settings.max_waves)):
        cut = course.cut(Cutter(ctx["checkpoint"], weight, prunes), settings.step)
        if cut is None:
            return
        through = _run_through(bound(settings.body, sparsities=cut.sparsities, healing=1), ctx)
        weight, ctx = cut.weight, through.context
        yield replace(through, weight=weight)


def _run_through(chain: Chain, start: Mapping[str, Any]) -> _Outlined:
    """The forecasts of the links of a chain, each on the outline that the one before leaves."""
    whole, ctx, peak = Forecast(), start, 0
    for each in links_with_settings(chain):
        hook = each.factory.hooks.forecast
        forecast = Forecast() if hook is None else hook(ctx, each.settings)
        after = {**ctx, **forecast.adds}
        needed = context_bytes(start, ctx) + forecast.memory_bytes
        peak = max(peak, needed, context_bytes(start, ctx, after))
        whole, ctx = whole.then(forecast), after
    return _Outlined(whole, ctx, by_shapes(ctx["checkpoint"]), peak)


def _more(course: Course, weight: Footprint, count: int, settings: WavesSettings) -> int:
    """Waves beyond those in outline: as many as reach the target at the rate of these."""
    most: int = settings.max_waves - count
    if not count:
        return 0
    left = course.left(weight)
    if course.target is None or left >= 1:
        return most
    return max(0, min(most, math.ceil(math.log(course.target / left) * count / math.log(left))))


def _note(course: Course, count: int) -> str:
    if course.target is None:
        return (
            f"at most {count} waves; they end when stop_loss is exceeded, which cannot be forecast"
        )
    return f"{count} {'wave' if count == 1 else 'waves'} to the target, if each is kept"
