"""What holds of every middleware: results do not depend on it, and objects hold no run."""

from __future__ import annotations

import asyncio
import copy
import io

import modulink
import pytest

from birdbone.engine import Chain, run
from birdbone.middleware import GpuMemory, Logging, Progress, Timing, WandbLogging

EVERY = ["GpuMemory", "Logging", "Progress", "Timing", "WandbLogging"]


@pytest.fixture
def every(tmp_path, quiet_wandb):
    return {
        "GpuMemory": GpuMemory(write=lambda line: None),
        "Logging": Logging(stream=io.StringIO(), level="debug"),
        "Progress": Progress(stream=io.StringIO()),
        "Timing": Timing(write=lambda line: None),
        "WandbLogging": WandbLogging(project="light", mode="offline", directory=tmp_path),
    }


def facts(result):
    """A result without what a clock or the process's size puts into it."""
    steps = [
        (step.link, dict(step.settings), dict(step.metrics), step.checkpoint)
        for step in result["history"]
    ]
    return {**result, "history": steps}


def assembled(links, kind=Chain):
    return kind(links.add(amount=3), links.plain, links.add(amount=2))


@pytest.mark.parametrize("kind", [Chain, modulink.Chain])
async def test_without_any_middleware_the_result_is_the_same(links, every, kind):
    bare, full = assembled(links, kind), assembled(links, kind)
    for middleware in every.values():
        full.use(middleware)
    before = modulink.Context(tally=4)
    results = [await chain.run(copy.copy(before)) for chain in (bare, full)]
    assert results[0]["tally"] == 9
    assert facts(results[0]) == facts(results[1])


@pytest.mark.parametrize("name", EVERY)
async def test_no_run_leaves_a_trace_on_the_object(links, every, name):
    middleware = every[name]
    before = dict(vars(middleware))
    chain = Chain(Chain(links.add(amount=20), name="wave"), links.plain)
    chain.use(middleware)
    results = await asyncio.gather(run(chain), run(chain, {"tally": 1}))
    assert [result["tally"] for result in results] == [20, 21]
    assert vars(middleware) == before


@pytest.mark.parametrize("name", EVERY)
async def test_one_link_alone_may_be_watched_before_or_after(links, every, name):
    chain = assembled(links)
    first, _, last = chain.links
    chain.use(every[name], on_link=first, position="before")
    chain.use(every[name], on_link=last, position="after")
    assert (await run(chain))["tally"] == 5


def test_the_room_offers_these():
    import birdbone.middleware

    assert birdbone.middleware.__all__ == EVERY
