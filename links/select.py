"""select: build candidates of an allocation, judge each on both texts, keep the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, cast

from pydantic import Field

from ..contexts.flow import Partial, Selectable, Selected
from ..contexts.forecast import Forecast
from ..engine import Settings, link
from .allocating.body import SelectBody
from .allocating.forecast import select_forecast
from .allocating.removal import RemovalChain, check_fractions, removal_of, require_budget
from .allocating.search import SearchResult, search


class SelectSettings(Settings):
    """The settings of select."""

    removal: RemovalChain | None = None
    """The chain that makes a smaller model for ``remove``: prune of whole units without a sparsity,
    then sensitivity and allocate, which gets the same budget. Links heal in it run for the best
    fraction only, which is then tried again."""

    remove: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Fractions of the units to remove. Each is one candidate more: bits are allocated on what is
    left within the same budget, and it is built and judged as the others are."""

    body: SelectBody
    """The chain that builds and judges one candidate, with quantize and validate at least."""


@link(SelectSettings)
async def select(ctx: Selectable, settings: SelectSettings) -> Selected:
    """Build and judge candidates, and keep one.

    Under a budget every candidate is tried, and the one whose worse rise is smallest is kept.
    Uniform settings of the same budget are among them, so that the result is no worse than these
    on the texts that judge. With ``remove`` smaller models of the same budget compete too. For a
    largest rise, the smallest candidate whose worse rise is no larger is found by bisection. The
    history records every candidate that was tried, kept or not, with its predicted bytes and its
    figures on both texts.

    Raises:
        GateError: no candidate passes the validate of the body, or none is good enough.
    """
    removal = removal_of(settings.removal, settings.remove)
    return _result(ctx, await search(ctx, settings.body, removal))


def _result(ctx: Selectable, found: SearchResult) -> Selected:
    """The keys of the candidate that was kept, the records of all, and of the links of that one."""
    best = found.best
    context = cast("Mapping[str, Any]", best.context)
    inner = (replace(each, within="select") for each in (*best.steps, *found.records))
    history = (*ctx.get("history", ()), *inner)
    added = {key: value for key, value in context.items() if ctx.get(key) is not value}
    promised = {key: context[key] for key in ("checkpoint", "verdict", "reference", "allocation")}
    metrics = {
        "candidates": len(found.records),
        "kept": best.candidate.name,
        "predicted_bytes": best.candidate.num_bytes,
        "rise": context["verdict"].rise,
        "worse_text": context["verdict"].worse.text,
    }
    return cast("Selected", {**added, **promised, "history": history, "metrics": metrics})


@select.check
def _check(ctx: Partial, settings: SelectSettings) -> None:
    """Fractions to remove without a way to remove them, or without a budget."""
    check_fractions(settings.removal, settings.remove)
    if "allocation" in ctx:
        require_budget(ctx["allocation"], settings.remove)


@select.forecast
def _forecast(ctx: Selectable, settings: SelectSettings) -> Forecast:
    """The body once for each candidate, and removal before it for each fraction."""
    return select_forecast(ctx, settings.body, removal_of(settings.removal, settings.remove))
