"""waves: prune in small steps, with healing and validation in between, and revert bad steps.

The checkpoint a wave starts from is never changed, so reverting means keeping it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from ..contexts.flow import Held, Partial, Validatable
from ..contexts.verdict import JUDGED_ON, judged_texts
from ..engine import Chain, announce, in_thread, link
from ..errors import DataError, SettingError
from ..models.evaluation.footprint import by_shapes, footprint
from ..texts import Windows, copied_windows
from .pruning.settings import takes_units
from .wave.body import bound, prunes_of
from .wave.course import Course
from .wave.cuts import Cut, Cutter
from .wave.forecast import waves_forecast
from .wave.run import Pace, Wave, first_wave, run_wave
from .wave.settings import WavesSettings


@link(WavesSettings)
async def waves(ctx: Validatable, settings: WavesSettings) -> Held:
    """Prune a little, heal and validate, again and again; keep the smallest model that holds.

    A wave is kept if perplexity rose over the original model by no more than stop_loss, on held-out
    text and on text from elsewhere, less two standard errors of the paired rise, as validate does
    for max_rise; these two standard errors must not exceed stop_loss themselves. A wave that is not
    kept, or that fails numerically, is reverted; the next takes half its step and heals twice as
    long. The history records every wave, kept or reverted, with its figures and the reason.

    Raises:
        DataError: the text is too short to tell a rise of stop_loss from none.
        GateError: the input model exceeds stop_loss before the first wave.
    """
    body, stop_loss = settings.body, settings.stop_loss
    course = Course(await in_thread(footprint, ctx["dense"]), settings.of, settings.target)
    best = await first_wave(ctx, body, course, stop_loss)
    tried, failures, pace = [best], 0, Pace(settings.step)
    while len(tried) <= settings.max_waves and failures < settings.patience:
        announce("waves", len(tried) - 1, settings.max_waves)
        cut = await in_thread(_next_cut, course, best, body, pace.share)
        if cut is None:
            break
        taking = replace(pace, share=cut.taken)
        chain = bound(body, sparsities=cut.sparsities, healing=pace.healing, regrow=settings.regrow)
        wave = await run_wave(len(tried), best, chain, course, taking, stop_loss)
        tried.append(wave)
        if wave.kept:
            best, failures = wave, 0
        else:
            pace = Pace(min(pace.share, cut.taken), pace.healing).gentler()
            failures += 1
    reached = await in_thread(_reached, course, best, body)
    ended = _ended(reached, failures == settings.patience, len(tried) > settings.max_waves)
    _warn(course, best, reached, ended)
    return _result(ctx, best, tried, ended)


def _cutter(best: Wave, body: Chain) -> Cutter:
    return Cutter(best.context["checkpoint"], best.weight, prunes_of(body))


def _next_cut(course: Course, best: Wave, body: Chain, fraction: float) -> Cut | None:
    return course.cut(_cutter(best, body), fraction)


def _reached(course: Course, best: Wave, body: Chain) -> bool:
    return course.reached(_cutter(best, body))


def _ended(reached: bool, out_of_patience: bool, out_of_waves: bool) -> str:
    if reached:
        return "the target is reached"
    if out_of_patience:
        return "patience ran out: too many waves in a row were reverted"
    return "max_waves ran" if out_of_waves else "there is no smaller size"


def _warn(course: Course, best: Wave, reached: bool, ended: str) -> None:
    if course.target is not None and not reached:
        warnings.warn(
            f"waves ended at {course.left(best.weight):.1%} of the dense model's {course.measure}, "
            f"short of target={course.target:.1%}, because {ended}; raise stop_loss, heal "
            f"longer, or raise the target",
            stacklevel=2,
        )
    elif best.number == 0:
        warnings.warn(
            f"no wave was kept and the model is unchanged, because {ended}; raise stop_loss, use a "
            f"smaller step, or heal longer",
            stacklevel=2,
        )


def _result(ctx: Mapping[str, Any], best: Wave, tried: Sequence[Wave], ended: str) -> Held:
    """The keys of the best wave, and the records of all waves and of the links of kept waves."""
    steps = [step for wave in tried for step in (*wave.steps, wave.record)]
    added = {key: value for key, value in best.context.items() if ctx.get(key) is not value}
    metrics = {
        "waves": len(tried) - 1,
        "kept": sum(wave.kept for wave in tried[1:]),
        **{f"{name}_left": left for name, left in best.left.items()},
        "rise": best.context["verdict"].rise,
        "worse_text": best.context["verdict"].worse.text,
        "ended": ended,
    }
    promised = {key: best.context[key] for key in ("checkpoint", "verdict", "reference")}
    history = (*ctx.get("history", ()), *(replace(each, within="waves") for each in steps))
    return cast("Held", {**added, **promised, "history": history, "metrics": metrics})


@waves.check
def _check(ctx: Partial, settings: WavesSettings) -> None:
    """Text that cannot decide, and targets out of reach."""
    _check_regrow(settings)
    for key, windows in judged_texts(ctx).items():
        _check_text(key, windows, ctx.get("healing"))
    if "checkpoint" in ctx and "dense" in ctx and settings.target is not None:
        start, dense = by_shapes(ctx["checkpoint"]), by_shapes(ctx["dense"])
        cutter = Cutter(ctx["checkpoint"], start, prunes_of(settings.body))
        Course(dense, settings.of, settings.target).require_reachable(cutter)


def _check_regrow(settings: WavesSettings) -> None:
    pattern = prunes_of(settings.body)[0].pattern
    if settings.regrow is not None and takes_units(pattern):
        raise SettingError(
            f"waves(regrow={settings.regrow}) is for masks: removed {pattern} cannot come back; "
            f"leave it out"
        )


def _check_text(key: str, judged: Windows, healing: Windows | None) -> None:
    name = f"{JUDGED_ON[key]} '{judged.text}'"
    if judged.num_windows < 2:
        raise DataError(
            f"{name} has one window, which gives no standard error; give at least 2 "
            f"({key}_windows)"
        )
    copied = [] if healing is None else copied_windows(judged, healing)
    if healing is not None and copied:
        raise DataError(
            f"{len(copied)} of {judged.num_windows} windows of {name} are in healing text "
            f"'{healing.text}' too, the first of them window {copied[0]}; use text that is not "
            f"trained on"
        )


waves.forecast(waves_forecast)
