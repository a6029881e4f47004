"""One candidate: built, judged, and recorded; some failures are its own, others end the run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import tiny_windows
from tiny_verdicts import verdict_on

from birdbone.contexts.allocation import Allocation, Candidate, LinearGrid
from birdbone.contexts.cost import Cost
from birdbone.contexts.steps import Step
from birdbone.contexts.verdict import Reference, Verdict
from birdbone.errors import GateError, LinkError, ModelError, NumericsError, SolverError
from birdbone.links.allocating.trial import Trial, try_candidate

WINDOWS = tiny_windows(2)
REFERENCE = Reference("dense", {WINDOWS.digest: torch.zeros(1)})
OLD, NEW = (Step(name, {}, Cost(1.0, 1, "process")) for name in ("load", "quantize"))
GRIDS = {
    "a": LinearGrid(4, 32),
    "b": LinearGrid(2, None),
    "c": LinearGrid(4, 32),
    "d": LinearGrid(4, 64),
}
CANDIDATES = tuple(Candidate(n, n == "one", GRIDS, 8, 500, 0.25) for n in ("one", "two"))


class Body:
    """A chain that leaves a verdict, or fails."""

    def __init__(self, verdict: Verdict | None = None, failure: Exception | None = None) -> None:
        self.verdict, self.failure, self.seen = verdict, failure, {}

    async def run(self, ctx: Any) -> dict[str, Any]:
        self.seen = ctx
        if self.failure is not None:
            raise LinkError("validate", {}, self.failure) from self.failure
        history = (*ctx.get("history", ()), NEW)
        return {**ctx, "verdict": self.verdict, "reference": REFERENCE, "history": history}


def judged(rise: float) -> Verdict:
    found = verdict_on(WINDOWS, 20.0, "light")
    return replace(found, heldout=replace(found.heldout, rise=rise))


async def tried(body: Body, **more: Any) -> Trial:
    allocation = Allocation(1000, CANDIDATES, max_rise=0.5)
    return await try_candidate({"allocation": allocation, **more}, body, 1)  # type: ignore[arg-type]


async def test_the_body_sees_this_candidate_alone() -> None:
    """Without the bound: quantize refuses an allocation that is still open."""
    body = Body(judged(0.1))
    found = await tried(body)
    allocation = body.seen["allocation"]
    assert (allocation.current.name, allocation.max_rise) == ("two", None)
    assert found.candidate is CANDIDATES[1]


async def test_what_is_recorded() -> None:
    found = await tried(Body(judged(0.1)))
    metrics = found.record.metrics
    assert (found.rise, found.failure, found.reference) == (0.1, None, REFERENCE)
    assert (found.record.link, found.record.checkpoint) == ("candidate", "light")
    assert metrics["candidate"] == "two"
    assert not metrics["uniform"]
    assert (metrics["predicted_bytes"], metrics["estimated_loss"]) == (500, 0.25)
    assert (metrics["rise"], metrics["embedding_bits"]) == (0.1, 8)


async def test_grids_are_counted() -> None:
    metrics = (await tried(Body(judged(0.1)))).record.metrics
    assert list(metrics["grids"].items()) == [
        ("2 bits, whole rows", 1),
        ("4 bits, groups of 32", 2),
        ("4 bits, groups of 64", 1),
    ]


async def test_only_its_own_steps() -> None:
    assert (await tried(Body(judged(0.1)), history=(OLD,))).steps == (NEW,)
    assert (await tried(Body(judged(0.1)))).steps == (NEW,)


async def test_nan_is_worse_than_all() -> None:
    assert (await tried(Body(judged(math.nan)))).rise == math.inf


@pytest.mark.parametrize("kind", [GateError, NumericsError, SolverError])
async def test_a_failure_of_its_own(kind: type[Exception]) -> None:
    found = await tried(Body(failure=kind("too coarse")))
    assert found.rise == math.inf
    assert found.failure == "link 'validate' failed: too coarse"
    assert (found.context, found.reference, found.steps) == (None, None, ())
    assert found.record.metrics["predicted_bytes"] == 500


@pytest.mark.parametrize("kind", [ModelError, ZeroDivisionError])
async def test_a_failure_of_all(kind: type[Exception]) -> None:
    with pytest.raises(LinkError, match="'validate' failed"):
        await tried(Body(failure=kind("no such model")))


async def test_settled() -> None:
    good = (await tried(Body(judged(0.1)))).settled(kept=True, reason="smallest rise")
    assert (good.metrics["kept"], good.metrics["reason"]) == (True, "smallest rise")
    assert good.metrics["candidate"] == "two"
    bad = (await tried(Body(failure=GateError("too coarse")))).settled(kept=False, reason="larger")
    assert bad.metrics["reason"] == "link 'validate' failed: too coarse"
