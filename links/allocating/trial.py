"""One candidate built and judged, and its record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...contexts.allocation import Allocation, Candidate
from ...contexts.cost import Meter
from ...contexts.steps import Step
from ...contexts.verdict import Reference, Verdict
from ...engine import Chain
from ...errors import GateError, LinkError, NumericsError, SolverError
from ..validating.metrics import metrics

# Failures of one candidate that another may not have; any other error ends the run.
_FAILURES = (GateError, NumericsError, SolverError)


@dataclass(frozen=True)
class Trial:
    """A candidate that was tried.

    Attributes:
        candidate: what was tried.
        rise: the larger rise of perplexity on the texts; infinite if it failed or is NaN.
        failure: why it could not be judged; None if it was.
        context: the context after it; None if it failed or is not needed any more.
        reference: outputs of the original model, computed once for all; None if it failed.
        steps: records of the links that built it.
        record: record of the trial as a whole.
    """

    candidate: Candidate
    rise: float
    failure: str | None
    context: Mapping[str, Any] | None
    reference: Reference | None
    steps: tuple[Step, ...]
    record: Step

    def settled(self, *, kept: bool, reason: str) -> Step:
        """The record, with whether it is the candidate that was kept, and why."""
        why = reason if self.failure is None else self.failure
        metrics = {**self.record.metrics, "kept": kept, "reason": why}
        return replace(self.record, metrics=metrics)


async def try_candidate(
    ctx: Mapping[str, Any], body: Chain, place: int, *, meter: Meter | None = None
) -> Trial:
    """Run the body on a candidate; one that is too slow fails without being built.

    Args:
        meter: what has measured the cost so far; None if the candidate begins here.

    Raises:
        LinkError: a link failed for a reason that concerns all candidates.
    """
    meter = Meter() if meter is None else meter
    allocation: Allocation = replace(ctx["allocation"], place=place, max_rise=None)
    candidate = allocation.current
    found: dict[str, Any] = {
        "candidate": candidate.name,
        "uniform": candidate.uniform,
        "predicted_bytes": candidate.num_bytes,
        "estimated_loss": candidate.loss,
        "embedding_bits": candidate.embedding_bits,
        **({} if candidate.speed is None else {"speed": candidate.speed}),
        "grids": _counted(candidate),
    }
    if allocation.too_slow is not None:
        return _failed(candidate, allocation.too_slow, Step("candidate", {}, meter.stop(), found))
    try:
        context = await body.run({**ctx, "allocation": allocation})
    except LinkError as error:
        if not isinstance(error.__cause__, _FAILURES):
            raise
        return _failed(candidate, str(error), Step("candidate", {}, meter.stop(), found))
    verdict: Verdict = context["verdict"]
    record = Step("candidate", {}, meter.stop(), {**found, **metrics(verdict)}, verdict.checkpoint)
    steps = tuple(context["history"][len(ctx.get("history", ())) :])
    rise = math.inf if math.isnan(verdict.rise) else verdict.rise
    return Trial(candidate, rise, None, context, context["reference"], steps, record)


def _failed(candidate: Candidate, reason: str, record: Step) -> Trial:
    return Trial(candidate, math.inf, reason, None, None, (), record)


def _counted(candidate: Candidate) -> dict[str, int]:
    """How many matrices have each grid, such as ``4 bits, groups of 64`` or ``q4_0``."""
    found: dict[str, int] = {}
    for grid in candidate.grids.values():
        groups = "whole rows" if grid.group_size is None else f"groups of {grid.group_size}"
        name = grid.ggml_type or f"{grid.bits} bits, {groups}"
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))
