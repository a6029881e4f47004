"""Which candidate is kept: the best of all, or the smallest that is good enough, by brute force."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_windows

from birdbone.contexts.allocation import Allocation, Candidate
from birdbone.contexts.verdict import Judgement, Perplexity, Reference, Verdict
from birdbone.engine import Chain, run_sync
from birdbone.errors import GateError, LinkError
from birdbone.links.allocating.search import SearchResult, search

FAILS = None
WINDOWS = tiny_windows(2)


def verdict(rise: float) -> Verdict:
    dense, light = Perplexity(20.0, 1.0, 60), Perplexity(20.0 * (1 + rise), 1.0, 60)
    held = Judgement(dense, light, rise, 0.0, 0.1, 0.9, "text", 16, 2, "float32", WINDOWS.digest)
    return Verdict(held, None, "light")


class Body:
    """Judges candidate ``place`` with the rise ``rises[place]``; counts what it is asked."""

    def __init__(self, rises: Sequence[float | None]) -> None:
        self.rises, self.tried, self.references = rises, [], []

    async def __call__(self, ctx: Any) -> dict[str, Any]:
        place = ctx["allocation"].place
        self.tried.append(place)
        self.references.append("reference" in ctx)
        rise = self.rises[place]
        if rise is None:
            raise LinkError("validate", {}, GateError("too much")) from GateError("too much")
        reference = Reference("dense", {WINDOWS.digest: torch.zeros(1)})
        return {**ctx, "verdict": verdict(rise), "reference": reference, "history": ()}

    run = __call__


def searched(body: Body, max_rise: float | None = None) -> SearchResult:
    """The result, with candidates that are called by their places."""
    candidates = tuple(
        Candidate(str(place), True, {}, None, 100 + place, 0.0) for place in range(len(body.rises))
    )
    allocation = Allocation(1000, candidates, max_rise=max_rise)

    async def link(ctx: Any) -> dict[str, Any]:
        return {**ctx, "found": await search(ctx, body)}  # type: ignore[arg-type]

    found: SearchResult = run_sync(Chain(link), {"allocation": allocation})["found"]
    return found


RISES = st.lists(st.one_of(st.none(), st.floats(-1, 5), st.just(math.nan)), min_size=1, max_size=9)


@given(RISES)
def test_the_best_of_all_is_kept(rises: list[float | None]) -> None:
    body = Body(rises)
    known = [(math.inf if math.isnan(rise) else rise) for rise in rises if rise is not None]
    if not known:
        with pytest.raises(LinkError, match=f"none of {len(rises)} candidates passes"):
            searched(body)
        return
    found = searched(body)
    assert body.tried == list(range(len(rises)))
    assert found.best.rise == min(known)
    assert found.best.context is not None
    kept = [record.metrics["kept"] for record in found.records]
    assert kept.index(True) == int(found.best.candidate.name)
    assert kept.count(True) == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=16), st.floats(0, 1))
def test_the_smallest_that_is_good_enough_is_found_in_few_trials(
    rises: list[float], max_rise: float
) -> None:
    """Where the rise falls with the size, as the search assumes."""
    rises = sorted(rises, reverse=True)
    body = Body(rises)
    enough = [place for place, rise in enumerate(rises) if rise <= max_rise]
    if not enough:
        with pytest.raises(LinkError, match="no candidate rises by at most"):
            searched(body, max_rise)
        return
    found = searched(body, max_rise)
    assert found.best.candidate.name == str(enough[0])
    assert len(body.tried) == len(set(body.tried)) <= len(rises).bit_length()
    for record, place in zip(found.records, body.tried, strict=True):
        assert record.metrics["kept"] == (place == enough[0])
        assert record.metrics["reason"].startswith(
            "smallest that rises"
            if place == enough[0]
            else "holds, but is larger" if place in enough else "rises by > "
        )


def test_a_candidate_that_fails_counts_as_too_small() -> None:
    found = searched(Body([FAILS, FAILS, 0.1, 0.05]), 0.2)
    assert found.best.candidate.name == "2"
    assert "too much" in found.records[0].metrics["reason"]


def test_the_original_is_computed_once() -> None:
    body = Body([0.3, 0.2, 0.1])
    searched(body)
    assert body.references == [False, True, True]
