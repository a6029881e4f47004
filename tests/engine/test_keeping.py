"""What the engine asks of a store, seen through one that keeps everything in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import pytest
from torch import Tensor, ones

from birdbone.contexts.steps import Step
from birdbone.engine import Chain, Link, Outcome, in_thread, link, run, unfinished
from birdbone.errors import ChainError, LinkError


class Start(TypedDict):
    seed: int


class Grown(TypedDict):
    size: int


class Memory:
    """A store of outcomes by link, settings and the context's plain values."""

    def __init__(self) -> None:
        self.kept: dict[str, Outcome] = {}
        self.progress: dict[str, tuple[dict[str, Tensor], dict[str, Any]]] = {}

    def place(self, step: Link, ctx: Mapping[str, Any]) -> MemoryPlace | None:
        if getattr(step.settings, "each_time", False):
            return None
        read = sorted((key, value) for key, value in ctx.items() if key != "history")
        return MemoryPlace(self, repr((step.__name__, dict(step.settings), read)))


class MemoryPlace:
    def __init__(self, store: Memory, key: str) -> None:
        self.store, self.key = store, key

    def replay(self) -> Outcome | None:
        return self.store.kept.get(self.key)

    def publish(self, outcome: Outcome) -> Outcome:
        self.store.kept[self.key] = outcome
        self.store.progress.pop(self.key, None)
        return outcome

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.store.progress.get(self.key)

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.store.progress[self.key] = (dict(tensors), dict(facts))


class Replays:
    """Middleware that notes what was replayed."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def before(self, link: Any, ctx: Any, mwctx: Any) -> None: ...

    async def after(self, link: Any, ctx: Any, result: Any, mwctx: Any) -> None: ...

    async def replayed(self, link: Any, ctx: Any, step: Step, mwctx: Any) -> None:
        self.seen.append(step.link)


@pytest.fixture
def ran() -> list[str]:
    return []


def counting(ran: list[str], name: str = "grow") -> Any:
    async def grow(ctx: Start, *, by: int = 1, each_time: bool = False) -> Grown:
        ran.append(name)
        return {"size": ctx["seed"] + by}

    grow.__name__ = name
    grow.__annotations__.update({"ctx": Start, "return": Grown})
    return link(grow)


async def test_a_link_that_ran_before_is_replayed_and_told_so(ran: list[str]) -> None:
    store, eyes = Memory(), Replays()
    chain = Chain(counting(ran)(by=2))
    chain.use(eyes)
    first = await chain.run({"seed": 1}, store=store)
    assert (first["size"], ran, eyes.seen) == (3, ["grow"], [])
    again = await run(chain, {"seed": 1}, store=store)
    assert again == first
    assert (ran, eyes.seen) == (["grow"], ["grow"])


async def test_without_a_store_everything_runs_again(ran: list[str]) -> None:
    chain = Chain(counting(ran)())
    for _ in range(2):
        await chain.run({"seed": 1})
    assert ran == ["grow", "grow"]


async def test_links_of_nested_chains_and_those_run_inside_links_are_kept_too(
    ran: list[str],
) -> None:
    inner = counting(ran, "inner")
    hidden = counting(ran, "hidden")

    @link
    async def outer(ctx: Mapping[str, Any]) -> Mapping[str, Any]:
        ran.append("outer")
        return await Chain(hidden(by=5)).run(ctx)

    store = Memory()
    chain = Chain(Chain(inner(by=2)), outer())
    first = await chain.run({"seed": 1}, store=store)
    assert ran == ["inner", "outer", "hidden"]
    assert [step.link for step in first["history"]] == ["inner", "hidden", "outer"]
    assert await chain.run({"seed": 1}, store=store) == first
    assert ran == ["inner", "outer", "hidden"]
    del store.kept[next(key for key in store.kept if "'outer'" in key)]
    assert (await chain.run({"seed": 1}, store=store))["size"] == 6
    assert ran == ["inner", "outer", "hidden", "outer"]


async def test_a_store_ends_with_its_run(ran: list[str]) -> None:
    store = Memory()
    await Chain(counting(ran)()).run({"seed": 1}, store=store)
    await Chain(counting(ran)()).run({"seed": 1})
    assert ran == ["grow", "grow"]


async def test_a_link_the_store_has_no_place_for_runs_each_time(ran: list[str]) -> None:
    store = Memory()
    for _ in range(2):
        await Chain(counting(ran)(each_time=True)).run({"seed": 1}, store=store)
    assert (ran, store.kept) == (["grow", "grow"], {})


async def test_plain_functions_run_each_time() -> None:
    ran = []

    async def plain(ctx: Any) -> Any:
        ran.append("plain")
        return {**ctx, "size": 1}

    store = Memory()
    for _ in range(2):
        await Chain(plain).run({"seed": 1}, store=store)
    assert (ran, store.kept) == (["plain", "plain"], {})


async def test_a_failing_link_goes_on_from_its_own_progress_which_is_gone_once_it_ended() -> None:
    begun = []

    @link
    async def climb(ctx: Start) -> Grown:
        def work() -> int:
            found = unfinished().load()
            done = 0 if found is None else found[1]["done"]
            begun.append(done)
            for step in range(done, 4):
                if step == 2 and done == 0:
                    raise ChainError("stopped half way")
                unfinished().save({"held": ones(step + 1)}, {"done": step + 1})
            return 4

        return {"size": await in_thread(work)}

    store = Memory()
    with pytest.raises(LinkError, match="half way"):
        await Chain(climb()).run({"seed": 1}, store=store)
    assert [facts for _, facts in store.progress.values()] == [{"done": 2}]
    assert (await Chain(climb()).run({"seed": 1}, store=store))["size"] == 4
    assert (begun, store.progress) == ([0, 2], {})


async def test_work_in_progress_belongs_to_the_running_link_and_to_none_without_a_store() -> None:
    @link
    async def inner(ctx: Start) -> Grown:
        unfinished().save({}, {"of": "inner"})
        return {"size": 1}

    @link
    async def outer(ctx: Start) -> Grown:
        unfinished().save({}, {"of": "outer"})
        await Chain(inner()).run(ctx)
        found = unfinished().load()
        return {"size": 0 if found is None else len(found[1]["of"])}

    assert (await Chain(outer()).run({"seed": 1}, store=Memory()))["size"] == len("outer")
    assert (await Chain(outer()).run({"seed": 1}))["size"] == 0
    assert unfinished().load() is None


def test_a_factory_knows_every_key_its_link_may_read(ran: list[str]) -> None:
    from birdbone.links import save

    assert save.may_read is not None
    assert {"checkpoint", "dense", "verdict", "heldout"} <= save.may_read

    @link
    async def free(ctx: Mapping[str, Any]) -> Grown:
        return {"size": 1}

    assert free.may_read is None
    assert counting(ran).may_read == {"seed"}
