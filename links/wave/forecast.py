"""What waves expect to cost: wave after wave in outline, as if each held."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...contexts.forecast import Forecast
from ...engine import Chain
from ...engine.rebuilding import links_with_settings
from ...models.evaluation.footprint import Footprint, by_shapes
from .body import bound, judging, prunes_of
from .context_bytes import context_bytes
from .course import Course
from .cuts import Cutter

Settings = Mapping[str, Any]

# Cut in outline one by one; those after them are taken to cost what the last of these does.
_OUTLINED = 3


@dataclass(frozen=True)
class _Outlined:
    """A wave in outline.

    Attributes:
        told: its work, and what it leaves.
        context: with what it leaves.
        weight: of the model it leaves.
        needed_bytes: at its peak, with the context it started from.
    """

    told: Forecast
    context: Mapping[str, Any]
    weight: Footprint
    needed_bytes: int


def waves_forecast(ctx: Mapping[str, Any], settings: Settings) -> Forecast:
    """The judging of the model as it came, then a wave of one step after the other."""
    course = _course(ctx, settings)
    first = _run_through(judging(settings["body"]), ctx)
    whole, weight, last = first.told, by_shapes(ctx["checkpoint"]), first
    count = 0
    for wave in _waves({**ctx, **first.told.adds}, settings, course):
        count, last, weight = count + 1, wave, wave.weight
        whole = whole.then(wave.told)
    cutter = Cutter(last.context["checkpoint"], weight, prunes_of(settings["body"]))
    more = 0 if course.reached(cutter) else _more(course, weight, count, settings)
    for _ in range(more):
        whole = whole.then(replace(last.told, adds={}))
    return replace(whole, guessed=True, notes=(_note(course, count + more), *whole.notes))


def waves_bytes(ctx: Mapping[str, Any], settings: Settings) -> int:
    """What waves hold at their peak beyond the context: in the second, a model to go back to."""
    judged = {**ctx, **_run_through(judging(settings["body"]), ctx).told.adds}
    waves = _waves(judged, settings, _course(ctx, settings))
    peak = max((wave.needed_bytes for wave, _ in zip(waves, range(2), strict=False)), default=0)
    return max(0, peak - context_bytes(ctx))


def _course(ctx: Mapping[str, Any], settings: Settings) -> Course:
    return Course(by_shapes(ctx["dense"]), settings["of"], settings["target"])


def _waves(ctx: Mapping[str, Any], settings: Settings, course: Course) -> Iterator[_Outlined]:
    """The first waves, each on the outline the one before it leaves, to the target at most."""
    body, prunes = settings["body"], prunes_of(settings["body"])
    weight = by_shapes(ctx["checkpoint"])
    for _ in range(min(_OUTLINED, settings["max_waves"])):
        cut = course.cut(Cutter(ctx["checkpoint"], weight, prunes), settings["step"])
        if cut is None:
            return
        through = _run_through(bound(body, sparsities=cut.sparsities, healing=1), ctx)
        weight, ctx = cut.weight, through.context
        yield replace(through, weight=weight)


def _run_through(chain: Chain, start: Mapping[str, Any]) -> _Outlined:
    """Each link of a chain in turn on the outline of what it would get."""
    whole, ctx, peak = Forecast(), start, 0
    for each in links_with_settings(chain):
        factory = each.factory
        need = 0 if factory.need_bytes is None else factory.need_bytes(ctx, each.settings)
        told = Forecast() if factory.foretell is None else factory.foretell(ctx, each.settings)
        after = {**ctx, **told.adds}
        peak = max(peak, context_bytes(start, ctx) + need, context_bytes(start, ctx, after))
        whole, ctx = whole.then(told), after
    return _Outlined(whole, ctx, by_shapes(ctx["checkpoint"]), peak)


def _more(course: Course, weight: Footprint, count: int, settings: Settings) -> int:
    """Waves beyond those outlined: by what a wave took of what counts, to the target or to none."""
    most: int = settings["max_waves"] - count
    if not count:
        return 0
    left = course.left(weight)
    if course.target is None or left >= 1:
        return most
    return max(0, min(most, math.ceil(math.log(course.target / left) * count / math.log(left))))


def _note(course: Course, count: int) -> str:
    if course.target is None:
        return f"at most {count} waves; they end where stop_loss is broken, which none can foretell"
    return f"{count} {'wave' if count == 1 else 'waves'} to the target, if each holds"
