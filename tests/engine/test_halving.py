"""Without device memory a link starts again with half as large batches, and says so."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import torch
from pretend_device import NAME, pretended
from pydantic import Field

from birdbone.contexts.flow import Changed, Empty
from birdbone.engine import BatchSize, Chain, Halved, Settings, halving, link, run
from birdbone.errors import LinkError, ResourceError


class Batched(Settings):
    batch_size: BatchSize = 8


@link(Batched)
async def work(ctx: Empty, settings: Batched) -> Changed:
    """Needs 100 bytes on the device for each window of a batch."""
    held = torch.zeros(100 * settings.batch_size, dtype=torch.uint8, device=NAME)
    return {"checkpoint": int(held.sum()), "metrics": {"seen": settings.batch_size}}  # type: ignore[typeddict-item]


class Unset(Settings):
    size: Annotated[Annotated[int, Field(ge=1)] | None, Halved()] = None


@link(Unset)
async def fails(ctx: Empty, settings: Unset) -> Changed:
    """Works on one window only."""
    if settings.size != 1:
        raise torch.OutOfMemoryError("out of memory")
    return {"checkpoint": 1}  # type: ignore[typeddict-item]


async def test_the_batch_is_halved_until_it_fits_and_the_history_says_so() -> None:
    with pretended(limit=250), pytest.warns(UserWarning, match="no memory left") as told:
        after = await run(Chain(work()))
    (step,) = after["history"]
    assert step.settings["batch_size"] == 8
    assert step.metrics == {"seen": 2, "batch_size_used": 2}
    assert [str(each.message).partition(" (")[0] for each in told] == [
        f"work: {NAME}:0 has no memory left with batch_size=8; starting again with 4",
        f"work: {NAME}:0 has no memory left with batch_size=4; starting again with 2",
    ]


async def test_with_enough_memory_nothing_is_said() -> None:
    with pretended(limit=1000):
        after = await run(Chain(work()))
    assert after["history"][0].metrics == {"seen": 8}


async def test_at_one_window_the_error_names_what_else_helps() -> None:
    with pretended(limit=99), pytest.raises(LinkError) as found:
        await run(Chain(work(batch_size=1)))
    assert isinstance(found.value.__cause__, ResourceError)
    assert (
        f"{NAME}:0 has no memory left for work with batch_size=1; use load(activations='host'), "
        "shorter windows" in str(found.value)
    )


async def test_a_link_without_batches_is_not_run_again() -> None:
    runs: list[int] = []

    @link
    async def greedy(ctx: Empty) -> Changed:
        runs.append(1)
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(LinkError, match="no memory left for greedy; use load"):
        await run(Chain(greedy()))
    assert runs == [1]


async def test_a_setting_may_be_unset() -> None:
    with pytest.raises(LinkError, match="no memory left for fails with size=None"):
        await run(Chain(fails()))
    with pytest.warns(UserWarning, match="starting again with 1"):
        after: Any = await run(Chain(fails(size=2)))
    assert after["history"][0].metrics == {"size_used": 1}


async def test_another_error_is_not_taken_for_it() -> None:
    @link(Batched)
    async def broken(ctx: Empty, settings: Batched) -> Changed:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(LinkError, match="shapes do not fit"):
        await run(Chain(broken()))


async def test_on_several_ranks_the_error_asks_for_smaller_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(halving, "size", lambda: 2)
    with pretended(limit=250), pytest.raises(LinkError, match="halved on several ranks: lower bat"):
        await run(Chain(work()))
