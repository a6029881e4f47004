"""select: build every candidate of an allocation, judge each on both texts, keep the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from ..contexts.flow import Selectable, Selected
from ..contexts.forecast import Forecast
from ..engine import Settings, announce, link
from ..errors import GateError
from .allocating.body import SelectBody
from .allocating.forecast import select_forecast
from .allocating.trial import Trial, try_candidate


class SelectSettings(Settings):
    """The settings of select."""

    body: SelectBody
    """The chain that builds and judges one candidate, with quantize and validate at least."""


@link(SelectSettings)
async def select(ctx: Selectable, settings: SelectSettings) -> Selected:
    """Build and judge every candidate, and keep the one whose worse rise is smallest.

    Uniform settings of the same budget are among the candidates, so that the result is no worse
    than these on the texts that judge. The history records every candidate, kept or not, with its
    predicted bytes and its figures on both texts.

    Raises:
        GateError: no candidate passes the validate of the body.
    """
    candidates = ctx["allocation"].candidates
    tried: list[Trial] = []
    best: Trial | None = None
    start: dict[str, Any] = dict(ctx)
    for place in range(len(candidates)):
        announce("candidates", place, len(candidates))
        trial = await try_candidate(start, settings.body, place)
        if trial.context is None:
            tried.append(trial)
            continue
        start["reference"] = trial.context["reference"]
        if best is None or trial.rise < best.rise:
            best = trial
        # Only the best one's model stays in memory.
        tried = [each if each is best else replace(each, context=None) for each in (*tried, trial)]
    if best is None:
        raise GateError(
            f"none of {len(tried)} candidates passes; the last one, "
            f"'{tried[-1].candidate.name}': {tried[-1].record.metrics['reason']}"
        )
    return _result(ctx, best, tried)


def _result(ctx: Selectable, best: Trial, tried: Sequence[Trial]) -> Selected:
    """The keys of the best candidate, and the records of all and of the links of the best."""
    context = cast("Mapping[str, Any]", best.context)
    inner = [*best.steps, *(each.settled(best) for each in tried)]
    history = (*ctx.get("history", ()), *(replace(each, within="select") for each in inner))
    added = {key: value for key, value in context.items() if ctx.get(key) is not value}
    promised = {key: context[key] for key in ("checkpoint", "verdict", "reference", "allocation")}
    metrics = {
        "candidates": len(tried),
        "kept": best.candidate.name,
        "predicted_bytes": best.candidate.num_bytes,
        "rise": context["verdict"].rise,
        "worse_text": context["verdict"].worse.text,
    }
    return cast("Selected", {**added, **promised, "history": history, "metrics": metrics})


@select.forecast
def _forecast(ctx: Selectable, settings: SelectSettings) -> Forecast:
    """The body once for each candidate."""
    return select_forecast(ctx, settings.body)
