"""What a chain promises: wiring checked when composed, nesting, failures that surface, watchers."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdbone.contexts.flow import Changed, Empty
from birdbone.engine import Chain, ProgressEvent, announce, link, run
from birdbone.engine import chain as chain_module
from birdbone.errors import ChainError, GateError, LinkError, ResourceError, SettingError


class Model(TypedDict):
    model: int


class Profile(TypedDict):
    profile: int


class Scores(TypedDict):
    scores: int


class Both(Model, Scores):
    pass


@link
async def load(ctx: dict[str, Any], *, value: int = 1) -> Model:
    return {"model": value}


@link
async def profile(ctx: Model) -> Profile:
    return {"profile": ctx["model"]}


@link
async def score(ctx: Profile) -> Scores:
    return {"scores": ctx["profile"] * 10}


@link
async def prune(ctx: Both, *, sparsity: float = 0.5) -> Model:
    return {"model": ctx["model"] - 1}


@link
async def breaks(ctx: dict[str, Any], *, how: str = "badly") -> Model:
    raise GateError(how)


async def plain(ctx: dict[str, Any]) -> dict[str, Any]:
    return {**ctx, "scores": 7}


class Diary:
    """Middleware that writes down what it is told, by link name."""

    def __init__(self, *, breaks_in: str = "", error: Callable[[], Exception] = RuntimeError):
        self.heard: list[tuple[str, str]] = []
        self.errors: list[BaseException | None] = []
        self.breaks_in = breaks_in
        self.error = error

    def note(self, hook: str, each: Any) -> None:
        self.heard.append((hook, each.__name__))
        if hook == self.breaks_in:
            raise self.error()

    async def before(self, each: Any, ctx: Any, mwctx: Any) -> None:
        self.note("before", each)

    async def after(self, each: Any, ctx: Any, result: Any, mwctx: Any) -> None:
        self.note("after", each)

    async def failed(self, each: Any, ctx: Any, error: BaseException, mwctx: Any) -> None:
        self.errors.append(error)
        self.note("failed", each)

    def progress(self, each: Any, event: ProgressEvent, mwctx: Any) -> None:
        self.note(f"progress {event.label}", each)

    async def ended(self, chain: Any, ctx: Any, error: BaseException | None, mwctx: Any) -> None:
        self.errors.append(error)
        self.note("ended", chain)


# Wiring, before anything runs


def test_a_wrong_order_is_refused_with_the_mend() -> None:
    message = "prune needs 'scores'; score(), two places later, provides it: put it earlier"
    with pytest.raises(ChainError) as caught:
        Chain(load(), prune(), profile(), score())
    assert str(caught.value) == message
    with pytest.raises(ChainError, match=r"score\(\), one place later, provides it"):
        Chain(load(), profile(), prune(), score())


def test_far_places_are_counted_in_figures() -> None:
    with pytest.raises(ChainError, match=r"score\(\), 12 places later, provides it"):
        Chain(prune(), *[prune()] * 11, score())


def test_a_link_that_hands_a_key_on_does_not_count_as_its_source() -> None:
    chain = Chain(prune(), prune())
    assert chain.needs == {"model", "scores"}
    assert chain.adds == {"model"}


def test_an_uncalled_factory_is_refused() -> None:
    message = r"^score is a factory: write score\(\), with its settings$"
    with pytest.raises(ChainError, match=message):
        Chain(load(), score)
    with pytest.raises(ChainError, match=message):
        Chain(load()).add_link(score)


def test_what_cannot_be_called_is_refused_by_place() -> None:
    with pytest.raises(
        ChainError, match=r"^position 2 of the chain holds 'score', which is no link$"
    ):
        Chain(load(), "score")


def test_a_refused_link_leaves_the_chain_as_it_was() -> None:
    chain = Chain(profile(), prune())
    links, needs, gives = chain.links, chain.needs, chain.adds
    with pytest.raises(ChainError, match="put it earlier"):
        chain.add_link(score())
    assert (chain.links, chain.needs, chain.adds) == (links, needs, gives)
    chain.add_link(prune())
    assert len(chain.links) == 3


async def test_after_a_plain_function_the_check_waits_until_it_has_run() -> None:
    chain = Chain(load(), plain, prune())
    assert chain.needs == frozenset()
    assert (await run(chain))["model"] == 0
    with pytest.raises(LinkError, match="link 'prune' failed: prune needs 'scores', which the con"):
        await run(Chain(load(), lambda ctx: ctx, prune()))


async def test_a_link_whose_return_names_no_keys_opens_the_check_too() -> None:
    @link
    async def anything(ctx: Model) -> dict[str, Any]:
        return {"scores": 3}

    for inner in (anything(), Chain(anything()), Chain(plain)):
        chain = Chain(load(), inner, prune())
        assert chain.open_ended
        assert chain.needs == frozenset()
        assert (await run(chain))["model"] == 0
    assert not Chain(load(), profile()).open_ended


async def test_a_missing_key_is_refused_before_anything_runs() -> None:
    diary = Diary()
    chain = Chain(load(), prune())
    chain.use(diary)
    with pytest.raises(
        ChainError, match=r"^prune needs 'scores', which no earlier link provides; "
    ):
        await run(chain)
    assert diary.heard == []
    assert (await run(chain, {"scores": 1}))["model"] == 0


def test_nested_chains_state_their_needs_and_are_checked() -> None:
    inner = Chain(profile(), score(), name="measure")
    assert (inner.needs, inner.adds) == ({"model"}, {"profile", "scores"})
    assert Chain(load(), inner, prune()).needs == frozenset()
    with pytest.raises(ChainError, match=r"^prune needs 'scores'; measure\(\), one place later"):
        Chain(load(), prune(), inner)
    with pytest.raises(ChainError, match=r"^measure needs 'model'; load\(\), one place later"):
        Chain(inner, load())


async def test_the_same_link_may_stand_twice() -> None:
    once = prune()
    result = await run(Chain(once, once), {"model": 5, "scores": 1})
    assert result["model"] == 3
    assert [step.link for step in result["history"]] == ["prune", "prune"]


KEYS = ("a", "b", "c", "d")
key_sets = st.frozensets(st.sampled_from(KEYS), max_size=2)
rows = st.lists(st.tuples(key_sets, key_sets, st.booleans()), max_size=6)


def _typed(name: str, keys: frozenset[str]) -> Any:
    return TypedDict(name, dict.fromkeys(sorted(keys), int))  # type: ignore[operator]


def _random_link(place: int, needs: frozenset[str], gives: frozenset[str]) -> Any:
    async def function(ctx: Any) -> Any:
        assert needs <= ctx.keys()
        return dict.fromkeys(gives, place)

    function.__name__ = f"link{place}"
    function.__annotations__ = {"ctx": _typed("N", needs), "return": _typed("G", gives)}
    return link(function)()


def _starved(row: list[tuple[frozenset[str], frozenset[str], bool]]) -> bool:
    """Whether some link waits for a key that only a later one makes out of something else."""
    for place, (needs, _, is_open) in enumerate(row):
        if any(earlier[2] for earlier in row[:place]):
            return False
        have = set().union(*(gives for _, gives, _ in row[:place]))
        later = set().union(*(gives - wants for wants, gives, o in row[place + 1 :] if not o))
        if not is_open and (needs - have) & later:
            return True
    return False


@settings(deadline=None)  # a busy machine is no fault
@given(rows)
def test_a_row_is_refused_exactly_where_a_link_would_starve(
    row: list[tuple[frozenset[str], frozenset[str], bool]],
) -> None:
    async def opening(ctx: dict[str, Any]) -> dict[str, Any]:
        return {**ctx, **dict.fromkeys(KEYS, -1)}

    links = [opening if o else _random_link(i, n, g) for i, (n, g, o) in enumerate(row)]
    if _starved(row):
        with pytest.raises(ChainError, match="put it earlier"):
            Chain(*links)
        return
    chain = Chain(*links)
    result = asyncio.run(run(chain, dict.fromkeys(chain.needs, 0)))
    assert chain.adds <= result.keys()
    for key in chain.needs:
        with pytest.raises(ChainError, match=f"needs '{key}'"):
            asyncio.run(run(chain, dict.fromkeys(chain.needs - {key}, 0)))


# What a link can foresee


@link
async def publish(ctx: dict[str, Any]) -> dict[str, Any]:
    return {"checkpoint": "small"}


@link
async def fits(ctx: dict[str, Any], *, width: int = 1) -> dict[str, Any]:
    return {}


@fits.check
def _wide_enough(ctx: Mapping[str, Any], settings: Any) -> None:
    if settings.width < 0 or (ctx.get("checkpoint") == "small" and settings.width > 1):
        raise SettingError(f"width {settings.width} does not fit")


@pytest.mark.parametrize(("width", "ran"), [(-1, []), (2, ["publish"]), (1, None)])
async def test_what_cannot_work_is_refused_as_soon_as_it_can_be_seen(
    width: int, ran: list[str] | None
) -> None:
    diary = Diary()
    chain = Chain(publish(), load(), Chain(fits(width=width)))
    chain.use(diary)
    if ran is None:
        assert (await run(chain))["history"][-1].link == "fits"
        return
    with pytest.raises(LinkError, match=f"link 'fits' failed: width {width} does not fit"):
        await run(chain)
    assert [each for hook, each in diary.heard if hook == "before"] == ran


async def test_what_a_later_key_shows_is_refused_before_the_work_between() -> None:
    """The check of the last link needs a key that the first link adds, and sees it at once."""
    diary = Diary()

    @link
    async def particular(ctx: dict[str, Any]) -> dict[str, Any]:
        return {}

    @particular.check
    def _right(ctx: Mapping[str, Any], settings: Any) -> None:
        if "model" in ctx:
            raise SettingError("of no use with a model")

    chain = Chain(load(), fits(), particular())
    chain.use(diary)
    with pytest.raises(LinkError, match="link 'particular' failed: of no use"):
        await run(chain, {"checkpoint": "large"})
    assert [each for hook, each in diary.heard if hook == "before"] == ["load"]


# Failures


async def test_a_failing_link_is_named_with_its_settings_and_its_cause() -> None:
    with pytest.raises(LinkError, match=r"^link 'breaks' failed: too far$") as caught:
        await run(Chain(load(), breaks(how="too far")))
    assert caught.value.link == "breaks"
    assert caught.value.settings == {"how": "too far"}
    assert isinstance(caught.value.__cause__, GateError)


async def test_an_error_of_another_house_is_named_with_its_type() -> None:
    async def looks_up(ctx: dict[str, Any]) -> Any:
        return ctx["scores"]

    def silent(ctx: dict[str, Any]) -> Any:
        raise ValueError

    with pytest.raises(LinkError, match=r"^link 'looks_up' failed: KeyError: 'scores'$"):
        await run(Chain(looks_up))
    with pytest.raises(LinkError, match=r"^link 'silent' failed: ValueError$"):
        await run(Chain(silent))


async def test_a_nested_failure_is_wrapped_once_and_told_at_both_levels() -> None:
    outer_diary, inner_diary = Diary(), Diary()
    inner = Chain(breaks(), load(), name="inner")
    inner.use(inner_diary)
    outer = Chain(inner, load(), name="outer")
    outer.use(outer_diary)
    with pytest.raises(LinkError, match=r"^link 'breaks' failed: badly$") as caught:
        await run(outer)
    assert isinstance(caught.value.__cause__, GateError)
    assert inner_diary.heard == [("before", "breaks"), ("failed", "breaks"), ("ended", "inner")]
    assert outer_diary.heard == [
        ("before", "inner"),
        ("before", "breaks"),
        ("failed", "breaks"),
        ("failed", "inner"),
        ("ended", "outer"),
    ]
    assert isinstance(outer_diary.errors[0], GateError)
    assert outer_diary.errors[1:] == [caught.value, caught.value]


async def test_cancelling_is_told_and_not_turned_into_a_link_error() -> None:
    started = asyncio.Event()

    async def waits(ctx: dict[str, Any]) -> Any:
        started.set()
        await asyncio.Event().wait()

    diary = Diary()
    chain = Chain(waits)
    chain.use(diary)
    task = asyncio.create_task(run(chain))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert diary.heard == [("before", "waits"), ("failed", "waits"), ("ended", "chain")]
    assert all(isinstance(error, asyncio.CancelledError) for error in diary.errors)


async def test_a_failure_that_was_dealt_with_keeps_nothing_alive() -> None:
    class Tensor:
        pass

    async def holds(ctx: dict[str, Any]) -> Any:
        tensor = Tensor()
        alive.append(weakref.ref(tensor))
        raise GateError("heavy")

    alive: list[weakref.ref[Tensor]] = []
    chain = Chain(Chain(holds))
    chain.connect(chain.links[0], load(), lambda ctx: False)
    gc.disable()
    try:
        with pytest.raises(LinkError):
            await run(chain)
        assert alive[0]() is None
    finally:
        gc.enable()


# Watchers


async def test_hooks_come_in_order_and_outer_watchers_see_inner_links() -> None:
    inner = Chain(profile(), name="inner")
    chain = Chain(load(), inner)
    diary = Diary()
    chain.use(diary)
    inner.use(diary)  # the same object twice is still told once
    await run(chain)
    assert diary.heard == [
        ("before", "load"),
        ("after", "load"),
        ("before", "inner"),
        ("before", "profile"),
        ("after", "profile"),
        ("after", "inner"),
        ("ended", "chain"),
    ]
    assert diary.errors == [None]


async def test_one_hook_is_enough_and_hooks_need_not_be_async() -> None:
    heard = []

    class OnlyAfter:
        def after(self, each: Any, ctx: Any, result: Any, mwctx: Any) -> None:
            heard.append(result["model"])

    chain = Chain(load(value=3))
    chain.use(OnlyAfter())
    await run(chain)
    assert heard == [3]


async def test_middleware_tied_to_a_link_hears_of_that_link_only() -> None:
    first, diary, end = load(), Diary(), Diary()
    chain = Chain(first, profile())
    chain.use(diary, on_link=first, position="before")
    chain.use(end, on_link=first, position="after")
    await run(chain)
    assert diary.heard == [("before", "load")]
    assert end.heard == [("after", "load")]


async def test_middleware_tied_to_an_outer_link_still_watches_its_own_inner_chain() -> None:
    inner, diary = Chain(load(), name="inner"), Diary()
    inner.use(diary)
    chain = Chain(inner)
    chain.use(diary, on_link=inner, position="before")
    await run(chain)
    assert diary.heard == [
        ("before", "inner"),
        ("before", "load"),
        ("after", "load"),
        ("ended", "inner"),
    ]


async def test_middleware_tied_after_a_link_hears_of_its_failure() -> None:
    bad, diary = breaks(), Diary()
    chain = Chain(bad)
    chain.use(diary, on_link=bad, position="after")
    with pytest.raises(LinkError):
        await run(chain)
    assert diary.heard == [("failed", "breaks")]


@pytest.mark.parametrize("position", [None, "around"])
def test_a_link_level_position_is_checked(position: str | None) -> None:
    chain = Chain(load())
    with pytest.raises(SettingError, match=f"'before' or 'after', found {position!r}"):
        chain.use(Diary(), on_link=chain.links[0], position=position)


async def test_an_error_before_a_link_stops_it_and_names_the_middleware() -> None:
    ran = []

    async def never(ctx: dict[str, Any]) -> dict[str, Any]:
        ran.append(True)
        return ctx

    other = Diary()
    chain = Chain(never)
    chain.use(other)
    chain.use(Diary(breaks_in="before", error=lambda: ResourceError("3 GiB short")))
    message = "^link 'never' failed: 3 GiB short; raised by middleware Diary before the link$"
    with pytest.raises(LinkError, match=message) as caught:
        await run(chain)
    assert isinstance(caught.value.__cause__, ResourceError)
    assert ran == []
    assert other.heard == [("before", "never"), ("failed", "never"), ("ended", "chain")]


@pytest.mark.parametrize("hook", ["after", "ended", "progress step"])
async def test_an_error_elsewhere_drops_the_middleware_and_the_run_goes_on(hook: str) -> None:
    async def announces(ctx: dict[str, Any]) -> dict[str, Any]:
        announce("step", 1, 2)
        return ctx

    broken, other = Diary(breaks_in=hook), Diary()
    chain = Chain(announces, load())
    chain.use(broken)
    chain.use(other)
    message = f"middleware Diary failed in '{hook.split()[0]}' and is disabled for this run"
    with pytest.warns(RuntimeWarning, match=message) as warned:
        result = await run(chain)
    assert len(warned) == 1
    assert result["model"] == 1
    assert broken.heard[-1][0] == hook
    assert [heard[0] for heard in other.heard] == [
        "before",
        "progress step",
        "after",
        "before",
        "after",
        "ended",
    ]


async def test_an_error_in_failed_hides_neither_the_failure_nor_other_watchers() -> None:
    broken, other = Diary(breaks_in="failed"), Diary()
    chain = Chain(breaks())
    chain.use(broken)
    chain.use(other)
    with (
        pytest.warns(RuntimeWarning, match="failed in 'failed'"),
        pytest.raises(LinkError, match="link 'breaks' failed: badly"),
    ):
        await run(chain)
    assert ("ended", "chain") not in broken.heard
    assert other.heard == [("before", "breaks"), ("failed", "breaks"), ("ended", "chain")]


async def test_a_watcher_dropped_inside_an_inner_chain_stays_dropped_outside() -> None:
    broken = Diary(breaks_in="after")
    inner = Chain(load())
    own = Diary()
    inner.use(own)
    chain = Chain(inner, inner, load())
    chain.use(broken)
    with pytest.warns(RuntimeWarning, match="is disabled for this run") as warned:
        await run(chain)
    assert len(warned) == 1
    assert broken.heard == [("before", "chain"), ("before", "load"), ("after", "load")]
    assert own.heard == [("before", "load"), ("after", "load"), ("ended", "chain")] * 2


async def test_a_dropped_watcher_watches_the_next_run() -> None:
    broken = Diary(breaks_in="ended")
    chain = Chain(load())
    chain.use(broken)
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="failed in 'ended'"):
            await run(chain)
    assert broken.heard == [("before", "load"), ("after", "load"), ("ended", "chain")] * 2


async def test_progress_is_told_of_the_link_that_announces_it() -> None:
    async def waves(ctx: dict[str, Any]) -> dict[str, Any]:
        result = await run(Chain(load()), ctx)
        announce("wave", 1)
        return result

    diary = Diary()
    chain = Chain(waves)
    chain.use(diary)
    await run(chain)
    assert [each for hook, each in diary.heard if hook == "progress wave"] == ["waves"]
    assert ("before", "load") in diary.heard


async def test_a_run_keeps_no_watcher_beyond_its_end() -> None:
    diary = Diary()
    watched, alone = Chain(load()), Chain(load())
    watched.use(diary)
    await run(watched)
    diary.heard.clear()
    await run(alone)
    announce("outside", 1)
    assert diary.heard == []


# Routes


async def test_a_route_takes_the_failure_and_the_chain_goes_on() -> None:
    bad, diary = breaks(), Diary()
    chain = Chain(bad, profile())
    chain.use(diary)
    chain.connect(bad, load(value=4), lambda ctx: isinstance(ctx["exception"], GateError))
    given: Mapping[str, Any] = {}
    assert (await run(chain, given))["profile"] == 4
    assert given == {}
    assert diary.heard == [
        ("before", "breaks"),
        ("failed", "breaks"),
        ("before", "load"),
        ("after", "load"),
        ("after", "breaks"),
        ("before", "profile"),
        ("after", "profile"),
        ("ended", "chain"),
    ]


async def test_a_route_is_for_its_own_source() -> None:
    good, bad = load(), breaks()
    chain = Chain(good, bad)
    chain.connect(good, load(), lambda ctx: True)
    with pytest.raises(LinkError, match="link 'breaks' failed: badly"):
        await run(chain)


async def test_a_rescuer_that_fails_is_the_link_that_is_named() -> None:
    bad, worse = breaks(), breaks(how="worse")
    chain = Chain(bad)
    chain.connect(bad, worse, lambda ctx: True)
    with pytest.raises(LinkError, match=r"^link 'breaks' failed: worse$") as caught:
        await run(chain)
    assert caught.value.settings == {"how": "worse"}


def test_a_route_must_start_in_the_chain_and_end_at_a_link() -> None:
    chain = Chain(breaks())
    with pytest.raises(
        ChainError, match="no route can start at breaks, which is not a link of this chain; pa"
    ):
        chain.connect(breaks(), load(), lambda ctx: True)
    with pytest.raises(ChainError, match=r"load is a factory: write load\(\)"):
        chain.connect(chain.links[0], load, lambda ctx: True)
    assert chain.inspect()["connections"] == []


# Several ranks


async def test_routes_are_refused_on_several_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = breaks()
    chain = Chain(bad)
    chain.connect(bad, load(), lambda ctx: True)
    monkeypatch.setattr(chain_module, "size", lambda: 2)
    with pytest.raises(ChainError, match=r"routes \(connect\) runs in one process only"):
        await run(chain)


@link
async def remade(ctx: Empty) -> Changed:
    return {"checkpoint": None}  # type: ignore[typeddict-item]


async def test_a_model_of_rank_0_needs_a_run_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_module, "size", lambda: 2)
    with pytest.raises(ChainError, match="remade runs on rank 0 alone, which hands its model to"):
        await run(Chain(remade()))


async def test_only_rank_0_is_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    diary, watched = Diary(), Chain(load())
    watched.use(diary)
    monkeypatch.setattr(chain_module, "is_first", lambda: False)
    await run(watched)
    assert diary.heard == []
