"""Which candidates are tried, and which one is kept."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...contexts.allocation import Allocation
from ...contexts.steps import Step
from ...engine import Chain, announce
from ...errors import GateError
from .removal import Removal, try_removed
from .trial import Trial, try_candidate


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        best: the candidate that was kept; its context is there.
        records: of every candidate that was tried, in that order.
    """

    best: Trial
    records: tuple[Step, ...]


async def search(
    ctx: Mapping[str, Any], body: Chain, removal: Removal | None = None
) -> SearchResult:
    """Try all candidates and keep the best, or look for the smallest that is good enough.

    Args:
        removal: smaller models to try beside the candidates within a budget.

    Raises:
        GateError: no candidate passes the validate of the body, or none is good enough.
    """
    allocation: Allocation = ctx["allocation"]
    if allocation.max_rise is None:
        return await _best(dict(ctx), body, removal)
    return await _smallest(dict(ctx), body, allocation, allocation.max_rise)


async def _best(ctx: dict[str, Any], body: Chain, removal: Removal | None) -> SearchResult:
    count = len(ctx["allocation"].candidates)
    more = 0 if removal is None else removal.trials
    tried: list[Trial] = []

    async def add(trying: Awaitable[Trial]) -> None:
        announce("candidates", len(tried), count + more)
        trial = await trying
        tried.append(trial)
        tried[:] = _lightened(tried, _least(tried))
        _remember(ctx, trial)

    for place in range(count):
        await add(try_candidate(ctx, body, place))
    if removal is not None:
        for fraction in removal.fractions:
            await add(try_removed(ctx, body, removal, fraction))
        rises = [each.rise for each in tried[count:]]
        if removal.heals and min(rises) < math.inf:
            fraction = removal.fractions[rises.index(min(rises))]
            await add(try_removed(ctx, body, removal, fraction, healed=True))
    best = _least(tried)
    if best is None:
        raise GateError(
            f"none of {len(tried)} candidates passes; the last one, '{tried[-1].candidate.name}': "
            f"{tried[-1].failure}"
        )
    records = tuple(each.settled(kept=each is best, reason=_outcome(each, best)) for each in tried)
    return SearchResult(best, records)


def _least(tried: Sequence[Trial]) -> Trial | None:
    """The trial of the smallest rise, the first of equal ones; None if all failed."""
    passed = [each for each in tried if each.failure is None]
    return min(passed, key=lambda each: each.rise, default=None)


def _outcome(trial: Trial, best: Trial) -> str:
    if trial is best:
        return "smallest rise on the worse text"
    return f"rises by {trial.rise:.1%}, and '{best.candidate.name}' by {best.rise:.1%}"


async def _smallest(
    ctx: dict[str, Any], body: Chain, allocation: Allocation, max_rise: float
) -> SearchResult:
    """Bisection over candidates by ascending size, which takes the rise to fall with size."""
    low, high = 0, len(allocation.candidates) - 1
    tried: list[Trial] = []
    best: Trial | None = None
    while low <= high:
        announce("candidates", len(tried), len(tried) + (high - low + 1).bit_length())
        place = (low + high) // 2
        trial = await try_candidate(ctx, body, place)
        if trial.context is not None and trial.rise <= max_rise:
            best, high = trial, place - 1
        else:
            low = place + 1
        tried = _lightened([*tried, trial], best)
        _remember(ctx, trial)
    if best is None:
        least = min(tried, key=lambda each: each.rise)
        raise GateError(
            f"no candidate rises by at most {max_rise:.2%}; the smallest rise is {least.rise:.2%}, "
            f"of '{least.candidate.name}'; allow a larger rise"
        )
    reasons = {
        id(each): "holds, but is larger" if each.rise <= max_rise else f"rises by > {max_rise:.2%}"
        for each in tried
    }
    records = tuple(
        (
            each.settled(kept=True, reason=f"smallest that rises by at most {max_rise:.2%}")
            if each.candidate is best.candidate
            else each.settled(kept=False, reason=reasons[id(each)])
        )
        for each in tried
    )
    return SearchResult(best, records)


def _lightened(tried: Sequence[Trial], best: Trial | None) -> list[Trial]:
    """The trials, of which only the best one's model stays in memory."""
    return [each if each is best else replace(each, context=None) for each in tried]


def _remember(ctx: dict[str, Any], trial: Trial) -> None:
    """Keep the original model's outputs, which do not depend on the candidate."""
    if trial.reference is not None:
        ctx["reference"] = trial.reference
