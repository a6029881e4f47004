"""One wave: the body run on the last kept model, evaluated, then kept or reverted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...contexts.cost import Meter
from ...contexts.steps import Step
from ...contexts.verdict import PREFIXES, Judgement, Verdict
from ...engine import Chain, in_thread
from ...errors import DataError, GateError, LinkError, NumericsError, SolverError
from ...models.evaluation.footprint import MEASURES, Footprint, Measure, footprint
from .body import judging
from .course import Course

# Failures that a gentler wave may avoid; any other error ends the run.
_STEPS_BACK = (GateError, NumericsError, SolverError)


@dataclass(frozen=True)
class Pace:
    """Strength of a wave.

    Attributes:
        share: fraction of the remaining model that it removes.
        healing: factor on the epochs of heal in the body.
    """

    share: float
    healing: int = 1

    def gentler(self) -> Pace:
        """Half the fraction, and twice the healing."""
        return Pace(self.share / 2, self.healing * 2)


@dataclass(frozen=True)
class Wave:
    """A wave that ran.

    Attributes:
        number: from 1; 0 is the input model.
        kept: False if it was reverted.
        context: where the next wave starts; if this one was reverted, where it started itself.
        weight: footprint of the model of ``context``.
        left: the same as fractions of the original model's.
        steps: records of the links that made the kept model.
        record: record of the wave as a whole, with its figures and the reason.
    """

    number: int
    kept: bool
    context: Mapping[str, Any]
    weight: Footprint
    left: Mapping[Measure, float]
    steps: tuple[Step, ...]
    record: Step


async def first_wave(ctx: Mapping[str, Any], body: Chain, course: Course, stop_loss: float) -> Wave:
    """Evaluate the input model: wave 0, the start of the curve.

    Raises:
        GateError: it exceeds stop_loss already.
        DataError: the text is too short to tell whether it does.
    """
    meter = Meter()
    context = await judging(body).run(ctx)
    verdict: Verdict = context["verdict"]
    fault = _broken(verdict, stop_loss)
    if fault is not None:
        raise GateError(f"before the first wave {fault}; heal first, or raise stop_loss")
    unclear = _too_little(verdict, stop_loss)
    if unclear is not None:
        raise DataError(unclear)
    weight = await in_thread(footprint, context["checkpoint"])
    left = weight.share_of(course.dense)
    found = {"reason": "the input model", **_figures(weight, left, verdict)}
    record = _record(0, True, Pace(0.0), meter, found, verdict.checkpoint)
    return Wave(0, True, context, weight, left, _new_steps(ctx, context), record)


async def run_wave(
    number: int, start: Wave, chain: Chain, course: Course, pace: Pace, stop_loss: float
) -> Wave:
    """Run the chain of a wave on the last kept model, evaluate the result, and keep or revert it.

    Raises:
        DataError: no wave was kept yet, and the text is too short to resolve stop_loss.
        LinkError: a link failed for a reason that a gentler wave would not avoid.
    """
    meter = Meter()
    try:
        context = await chain.run(start.context)
    except LinkError as error:
        if not isinstance(error.__cause__, _STEPS_BACK):
            raise
        record = _record(number, False, pace, meter, {"reason": str(error)}, None)
        return replace(start, number=number, kept=False, steps=(), record=record)
    verdict: Verdict = context["verdict"]
    weight = await in_thread(footprint, context["checkpoint"])
    left = weight.share_of(course.dense)
    fault = _broken(verdict, stop_loss) or _no_lighter(start.weight, weight)
    unclear = _too_little(verdict, stop_loss) if fault is None else None
    if unclear is not None and start.number == 0:
        raise DataError(unclear)
    fault = fault or unclear
    found = {"reason": fault or "held", **_figures(weight, left, verdict)}
    record = _record(number, fault is None, pace, meter, found, verdict.checkpoint)
    if fault is not None:
        return replace(start, number=number, kept=False, steps=(), record=record)
    steps = _new_steps(start.context, context)
    return Wave(number, True, context, weight, left, steps, record)


def _broken(verdict: Verdict, stop_loss: float) -> str | None:
    fault = verdict.broken(stop_loss)
    if fault is None:
        return None
    return (
        f"perplexity rose by {fault.rise:.2%} (standard error {fault.rise_error:.2%}) over "
        f"dense on {fault.text}, more than stop_loss={stop_loss:.2%} allows"
    )


def _no_lighter(before: Footprint, after: Footprint) -> str | None:
    lighter = any(after.of(measure) < before.of(measure) for measure in MEASURES)
    return None if lighter else "nothing was removed: the step is too small for this model's sizes"


def _too_little(verdict: Verdict, stop_loss: float) -> str | None:
    """Why the text cannot tell whether the rise is within stop_loss; None where it can."""
    name, widest = max(verdict.texts.items(), key=lambda item: item[1].margin)
    if widest.margin <= stop_loss:
        return None
    windows = math.ceil(widest.num_windows * (widest.margin / stop_loss) ** 2)
    return (
        f"stop_loss={stop_loss:.2%} is smaller than the noise of the text: two standard errors of "
        f"the rise are {widest.margin:.2%} on {widest.num_windows} windows of {widest.window} "
        f"tokens of {widest.text}; it takes about {windows:,} such windows ({name}_windows), or a "
        f"higher stop_loss"
    )


def _figures(
    weight: Footprint, left: Mapping[Measure, float], verdict: Verdict
) -> dict[str, float | int]:
    """The figures of the curve; those named _left are fractions of the original model."""
    judged = {name: _judged(each) for name, each in verdict.texts.items()}
    return {
        **{name: weight.of(name) for name in MEASURES},
        **{f"{name}_left": share for name, share in left.items()},
        **{f"{PREFIXES[name]}{key}": v for name, each in judged.items() for key, v in each.items()},
    }


def _judged(judgement: Judgement) -> dict[str, float]:
    return {
        "perplexity": judgement.light.value,
        "perplexity_error": judgement.light.standard_error,
        "rise": judgement.rise,
        "rise_error": judgement.rise_error,
        "mean_kl": judgement.mean_kl,
    }


def _record(
    number: int,
    kept: bool,
    pace: Pace,
    meter: Meter,
    found: Mapping[str, Any],
    checkpoint: str | None,
) -> Step:
    """The history record of a wave; ``checkpoint`` is the model it made, kept or not."""
    metrics = {"wave": number, "kept": kept, **found}
    return Step("wave", asdict(pace), meter.stop(), metrics, checkpoint)


def _new_steps(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Step, ...]:
    steps: tuple[Step, ...] = after["history"][len(before.get("history", ())) :]
    return steps
