"""waves: thin a little, heal, judge, and step back where it does not hold; again until it must end.

What a wave starts from is never changed, so stepping back is keeping it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, cast

from pydantic import Field

from ..contexts.flow import Held, Validatable
from ..engine import Chain, announce, in_thread, link
from ..errors import DataError, SettingError
from ..models.evaluation.footprint import Measure, by_shapes, footprint
from ..texts import Windows, copied_windows
from .pruning.unit_sizes import takes_units
from .wave.body import Body, bound, prunes_of
from .wave.course import Course
from .wave.cuts import Cut, Cutter
from .wave.forecast import waves_bytes, waves_forecast
from .wave.run import Pace, Wave, first_wave, run_wave


@link
async def waves(
    ctx: Validatable,
    *,
    body: Body,
    target: Annotated[float, Field(gt=0, lt=1)] | None = None,
    of: Measure = "parameters",
    step: Annotated[float, Field(gt=0, lt=1)] = 0.10,
    stop_loss: Annotated[float, Field(gt=0)] = 0.03,
    patience: Annotated[int, Field(ge=1)] = 2,
    regrow: Annotated[float, Field(ge=0, le=1)] | None = None,
    max_waves: Annotated[int, Field(ge=1)] = 20,
) -> Held:
    """Run the body again and again, each time on what held, and keep the lightest that holds.

    A wave holds where perplexity on held-out text rose over dense by no more than stop_loss as far
    as the text can tell: two standard errors of the paired rise are taken off it, as validate does
    for max_rise, and they must be no more than stop_loss themselves. A wave that does not hold, or
    whose numbers break down, is reverted; the next takes half its step and twice its healing.
    Every wave, kept or reverted, is in the history with its figures and its reason.

    Settings:
        body: the chain of one wave, with prune and validate at least; waves sets prune.sparsity and
            multiplies heal.epochs. Scores and profile stay those of the model as it came, unless
            the body makes them anew.
        target: share of the dense model that is to remain; the last wave is cut to hit it, with
            whole units to the size nearest to it. As little as holds where none is given.
        of: what target is a share of: parameters (those no mask made zero), bytes, or flops,
            operations a token.
        step: the most a wave takes of what remains; where units are coarser than that, one size
            down.
        stop_loss: the most perplexity may rise over dense, all waves together.
        patience: waves reverted in a row after which the best so far is the result.
        regrow: the most of the zeros a wave starts from, of each linear, that may become weights
            again; as many as the method of prune likes where none is given. Whole units that went
            are gone.
        max_waves: the most waves, reverted ones counted.

    Raises:
        DataError: the text cannot tell a rise of stop_loss from none.
        GateError: the model broke stop_loss before the first wave.
    """
    course = Course(await in_thread(footprint, ctx["dense"]), of, target)
    best = await first_wave(ctx, body, course, stop_loss)
    tried, failures, pace = [best], 0, Pace(step)
    while len(tried) <= max_waves and failures < patience:
        announce("waves", len(tried) - 1, max_waves)
        cut = await in_thread(_next_cut, course, best, body, pace.share)
        if cut is None:
            break
        taking = replace(pace, share=cut.taken)
        chain = bound(body, sparsities=cut.sparsities, healing=pace.healing, regrow=regrow)
        wave = await run_wave(len(tried), best, chain, course, taking, stop_loss)
        tried.append(wave)
        if wave.kept:
            best, failures = wave, 0
        else:
            pace = Pace(min(pace.share, cut.taken), pace.healing).gentler()
            failures += 1
    reached = await in_thread(_reached, course, best, body)
    ended = _ended(reached, failures == patience, len(tried) > max_waves)
    _warn(course, best, reached, ended)
    return _result(ctx, best, tried, ended)


def _cutter(best: Wave, body: Chain) -> Cutter:
    return Cutter(best.context["checkpoint"], best.weight, prunes_of(body))


def _next_cut(course: Course, best: Wave, body: Chain, share: float) -> Cut | None:
    return course.cut(_cutter(best, body), share)


def _reached(course: Course, best: Wave, body: Chain) -> bool:
    return course.reached(_cutter(best, body))


def _ended(reached: bool, out_of_patience: bool, out_of_waves: bool) -> str:
    if reached:
        return "the target is reached"
    if out_of_patience:
        return "as many waves in a row as patience allows did not hold"
    return "max_waves ran" if out_of_waves else "there is no smaller size to be had"


def _warn(course: Course, best: Wave, reached: bool, ended: str) -> None:
    if course.target is not None and not reached:
        warnings.warn(
            f"waves ended at {course.left(best.weight):.1%} of the dense model's {course.measure}, "
            f"short of target={course.target:.1%}, because {ended}; allow more stop_loss, heal "
            f"longer, or ask for less",
            stacklevel=2,
        )
    elif best.number == 0:
        warnings.warn(
            f"no wave held, and the model is as it came, because {ended}; allow more stop_loss, "
            f"take a smaller step, or heal longer",
            stacklevel=2,
        )


def _result(ctx: Mapping[str, Any], best: Wave, tried: Sequence[Wave], ended: str) -> Held:
    """What the best wave left, and every wave's record, after those of the links it kept."""
    steps = [step for wave in tried for step in (*wave.steps, wave.record)]
    added = {key: value for key, value in best.context.items() if ctx.get(key) is not value}
    metrics = {
        "waves": len(tried) - 1,
        "kept": sum(wave.kept for wave in tried[1:]),
        **{f"{name}_left": left for name, left in best.left.items()},
        "rise": best.context["verdict"].rise,
        "ended": ended,
    }
    promised = {key: best.context[key] for key in ("checkpoint", "verdict", "reference")}
    history = (*ctx.get("history", ()), *(replace(each, within="waves") for each in steps))
    return cast("Held", {**added, **promised, "history": history, "metrics": metrics})


@waves.foresee
def _fits(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Text that cannot judge, and targets out of reach, are refused before any work."""
    _check_regrow(settings)
    heldout: Windows | None = ctx.get("heldout")
    if heldout is not None:
        _check_text(heldout, ctx)
    if "checkpoint" in ctx and settings["target"] is not None:
        start, dense = (by_shapes(ctx[key]) for key in ("checkpoint", "dense"))
        cutter = Cutter(ctx["checkpoint"], start, prunes_of(settings["body"]))
        Course(dense, settings["of"], settings["target"]).require_reachable(cutter)


def _check_regrow(settings: Mapping[str, Any]) -> None:
    pattern = prunes_of(settings["body"])[0]["pattern"]
    if settings["regrow"] is not None and takes_units(pattern):
        raise SettingError(
            f"waves(regrow={settings['regrow']}) is for masks: {pattern} that went are no longer "
            f"in the model, and cannot come back; leave it out"
        )


def _check_text(heldout: Windows, ctx: Mapping[str, Any]) -> None:
    if heldout.num_windows < 2:
        raise DataError(
            f"held-out text '{heldout.text}' has one window, which says nothing of how far off a "
            f"rise may be; give at least 2 (heldout_windows)"
        )
    healing: Windows | None = ctx.get("healing")
    copied = [] if healing is None else copied_windows(heldout, healing)
    if healing is not None and copied:
        raise DataError(
            f"{len(copied)} of {heldout.num_windows} windows of held-out text '{heldout.text}' "
            f"stand in healing text '{healing.text}' too, the first of them window {copied[0]}; "
            f"judge by text that is not trained on"
        )


waves.memory(waves_bytes)
waves.forecast(waves_forecast)
