"""One call of a link: what it needs and adds, its record, and a store that replays it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NotRequired, TypedDict

import pytest
from modulink import Context

from birdbone.contexts.cost import Cost
from birdbone.contexts.steps import Step
from birdbone.engine import Chain, Outcome, link, run
from birdbone.engine.calling import as_context, call, check_links, like
from birdbone.errors import ChainError, LinkError


class Grain(TypedDict):
    grain: int
    history: NotRequired[tuple[Step, ...]]


class Flour(TypedDict):
    flour: int
    metrics: NotRequired[Mapping[str, Any]]


ran: list[int] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    ran.clear()


@link
async def mill(ctx: Grain, *, share: float = 0.5) -> Flour:
    ran.append(ctx["grain"])
    return {"flour": int(ctx["grain"] * share), "metrics": {"lost": 0.25}}


@link
async def idle(ctx: Grain) -> Flour:
    return {}  # type: ignore[typeddict-item]


@link
async def wrong(ctx: Grain) -> Flour:
    return [1]  # type: ignore[return-value]


@link
async def twice(ctx: Grain) -> dict[str, Any]:
    """A link that runs another, as waves does."""
    return await mill()(ctx)


async def test_the_added_keys_join_a_copy() -> None:
    ctx = {"grain": 10, "other": "kept"}
    found = await call(mill(), ctx)
    assert (found["flour"], found["grain"], found["other"]) == (5, 10, "kept")
    assert ctx == {"grain": 10, "other": "kept"}
    assert "metrics" not in found


async def test_the_record_has_settings_cost_and_what_was_measured() -> None:
    found = await call(mill(share=0.2), {"grain": 10, "checkpoint": SimpleNamespace(id="abc")})
    (step,) = found["history"]
    assert (step.link, step.settings, step.checkpoint) == ("mill", {"share": 0.2}, "abc")
    assert step.metrics["lost"] == 0.25
    assert step.cost.seconds >= 0
    assert (await call(mill(), found))["history"][0] is step


async def test_a_value_without_an_id_names_no_model() -> None:
    found = await call(mill(), {"grain": 10, "checkpoint": "a name"})
    assert found["history"][-1].checkpoint is None


async def test_steps_inside_come_before_the_links_own() -> None:
    before = Step("load", {}, Cost(1.0, 0, "process"))
    found = await call(twice(), {"grain": 10, "history": (before,)})
    assert [step.link for step in found["history"]] == ["load", "mill", "twice"]


async def test_a_missing_key_is_named_with_who_provides_it() -> None:
    with pytest.raises(ChainError, match=r"^mill needs 'grain', which the context lacks$"):
        await call(mill(), {})
    assert ran == []


async def test_a_key_that_was_not_returned_is_named() -> None:
    with pytest.raises(ChainError, match=r"^idle declares that it adds 'flour' but did not return"):
        await call(idle(), {"grain": 1})


async def test_only_a_context_may_be_returned() -> None:
    said = r"^link 'wrong' returned list; a link returns a context dict$"
    with pytest.raises(ChainError, match=said):
        await call(wrong(), {"grain": 1})
    assert as_context(mill(), {"a": 1}) == {"a": 1}
    with pytest.raises(ChainError, match=r"^link 'mill' returned NoneType"):
        as_context(mill(), None)


def test_a_context_keeps_its_type() -> None:
    assert type(like({}, {"a": 1})) is dict
    made = like(Context({"b": 2}), {"a": 1})
    assert isinstance(made, Context)
    assert dict(made) == {"a": 1}


@link
async def picky(ctx: Grain, *, least: int = 5) -> Flour:
    return {"flour": 1}


@picky.check
def _check(ctx: Mapping[str, Any], settings: Any) -> None:
    if ctx.get("grain", settings.least) < settings.least:
        raise ValueError(f"{ctx['grain']} is too little")


@pytest.mark.parametrize(
    "each", [picky(least=9), Chain(picky(least=9)), Chain(mill(), Chain(picky(least=9)))]
)
def test_checks_are_asked_wherever_the_link_stands(each: Any) -> None:
    check_links([each], {})
    check_links([each], {"grain": 9})
    with pytest.raises(LinkError, match=r"^link 'picky' failed: ValueError: 8 is too") as caught:
        check_links([mill(), each], {"grain": 8})
    assert isinstance(caught.value.__cause__, ValueError)
    check_links([lambda ctx: ctx], {"grain": 8})


async def test_a_check_comes_before_the_work() -> None:
    with pytest.raises(LinkError, match="1 is too little"):
        await call(picky(), {"grain": 1})


@dataclass
class Shelf:
    """A store that keeps one outcome and says what it was asked."""

    kept: Outcome | None = None
    asked: list[str] = field(default_factory=list)

    def place(self, step: Any, ctx: Mapping[str, Any]) -> Shelf | None:
        self.asked.append(f"place {step.__name__}")
        return None if step.__name__ == "twice" else self

    def replay(self) -> Outcome | None:
        return self.kept

    def publish(self, outcome: Outcome) -> Outcome:
        self.asked.append("publish")
        self.kept = Outcome({**outcome.added, "flour": 77}, outcome.steps)
        return self.kept

    def load(self) -> None:
        """There is never unfinished work."""

    def save(self, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        raise AssertionError


class Seen:
    """A middleware that notes replays."""

    def __init__(self) -> None:
        self.replays: list[tuple[str, str]] = []

    def replayed(self, each: Any, ctx: Any, step: Step, notes: Any) -> None:
        self.replays.append((each.__name__, step.link))


async def test_a_kept_outcome_is_replayed_and_told() -> None:
    store, seen = Shelf(), Seen()
    chain = Chain(mill())
    chain.use(seen)
    first = await run(chain, {"grain": 10}, store=store)
    assert (ran, seen.replays, store.asked) == ([10], [], ["place mill", "publish"])
    assert first["flour"] == 77  # what the store will replay, not what the link returned
    again = await run(chain, {"grain": 10}, store=store)
    assert (ran, seen.replays) == ([10], [("mill", "mill")])
    assert (again["flour"], again["history"]) == (77, first["history"])


async def test_a_link_without_a_place_runs_each_time() -> None:
    store = Shelf()
    for _ in range(2):
        found = await run(Chain(twice()), {"grain": 10}, store=store)
    assert found["flour"] in (5, 77)
    assert store.asked.count("place twice") == 2
