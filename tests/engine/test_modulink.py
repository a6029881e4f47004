"""A drop-in for modulink: what must be the same is the same, and where modulink 4.0.3 errs, see.

Each fault is shown under modulink's own Chain first, so that a newer modulink which mends it fails
the test here and the engine can grow shorter.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

import modulink
import pytest
from modulink import Context

from birdbone.engine import Chain, link, run
from birdbone.errors import ChainError, LinkError, SettingError


class Counted(TypedDict):
    count: int


class Doubled(TypedDict):
    doubled: int


@link
async def double(ctx: Counted, *, times: int = 2) -> Doubled:
    return {"doubled": ctx["count"] * times}


async def counts(ctx: dict[str, Any]) -> Any:
    return Context({**ctx, "count": ctx.get("count", 0) + 1})


def counts_at_once(ctx: dict[str, Any]) -> Any:
    return Context({**ctx, "count": ctx.get("count", 0) + 1})


async def fails(ctx: dict[str, Any]) -> Any:
    raise ValueError("broken bone")


async def mends(ctx: dict[str, Any]) -> Any:
    return Context({**ctx, "mended": str(ctx["exception"])})


class Callee:
    """A link that is an object."""

    async def __call__(self, ctx: dict[str, Any]) -> Any:
        return await counts(ctx)

    async def method(self, ctx: dict[str, Any]) -> Any:
        return await counts(ctx)


class Recorder:
    """Modulink middleware that keeps its notes in mwctx, and what it heard per run in a list."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    async def before(self, each: Any, ctx: Any, mwctx: Any) -> None:
        self.heard.append(("before", each.__name__))

    async def after(self, each: Any, ctx: Any, result: Any, mwctx: Any) -> None:
        self.heard.append(("after", each.__name__))


# The same


def _with_route(kind: Any) -> Any:
    chain = kind(counts, fails, counts_at_once, functools.partial(counts))
    chain.connect(fails, counts, lambda ctx: isinstance(ctx["exception"], KeyError))
    chain.connect(fails, mends, lambda ctx: isinstance(ctx["exception"], ValueError))
    chain.connect(fails, counts, lambda ctx: True)
    return chain


async def test_one_definition_gives_one_result_under_both() -> None:
    results = [await _with_route(kind).run(Context(seed=1)) for kind in (modulink.Chain, Chain)]
    for result in results:
        assert isinstance(result.pop("exception"), ValueError)
        assert type(result) is Context
    assert results[0] == results[1] == {"seed": 1, "count": 3, "mended": "broken bone"}


def test_one_definition_inspects_alike_under_both() -> None:
    condition = bool
    seen = []
    for kind in (modulink.Chain, Chain):
        chain = kind(counts, fails)
        chain.add_link(mends)
        chain.use(modulink.Timing())
        chain.connect(fails, mends, condition)
        seen.append(chain.inspect())
    assert seen[0] == seen[1]
    assert seen[1]["links"] == ["counts", "fails", "mends"]
    assert issubclass(Chain, modulink.Chain)


@pytest.mark.parametrize("kind", [modulink.Chain, Chain])
async def test_modulinks_own_middleware_works(
    kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = kind(counts, double())
    chain.use(modulink.Timing())
    chain.use(modulink.Logging())
    await chain.run(Context())
    said = re.sub(
        r"took \S+|(history|position|index)=\S+|'history': .*", "", capsys.readouterr().out
    )
    heads = [line.split(" ctx=")[0].split(" result=")[0].strip() for line in said.splitlines()]
    assert heads == [
        "[Logging] Before: counts",
        "[Timing] counts",
        "[Logging] After: counts",
        "[Logging] Before: double",
        "[Timing] double",
        "[Logging] After: double",
    ]


@pytest.mark.parametrize("kind", [modulink.Chain, Chain])
async def test_middleware_of_a_link_stands_inside_that_of_the_chain(kind: Any) -> None:
    order: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        async def before(self, each: Any, ctx: Any, mwctx: Any) -> None:
            order.append(f"before {self.name}")

        async def after(self, each: Any, ctx: Any, result: Any, mwctx: Any) -> None:
            order.append(f"after {self.name}")

    async def own(ctx: dict[str, Any]) -> Any:
        return ctx

    chain = kind(own)
    for position in ("before", "after"):
        chain.use(Named("tied"), on_link=own, position=position)
    chain.use(Named("whole"))
    await chain.run(Context())
    assert order == ["before whole", "before tied", "after tied", "after whole"]


async def test_our_links_run_under_modulink() -> None:
    app = modulink.Chain(counts, double(times=5), counts_at_once)
    result = await app.run(Context())
    assert type(result) is Context
    assert (result["doubled"], result["count"]) == (5, 2)
    (step,) = result["history"]
    assert (step.link, step.settings) == ("double", {"times": 5})


async def test_our_links_check_their_needs_under_modulink() -> None:
    result = await modulink.Chain(double()).run(Context())
    assert isinstance(result["exception"], ChainError)
    assert "double needs 'count', which the context lacks" in str(result["exception"])


async def test_an_uncalled_factory_says_so_under_modulink() -> None:
    result = await modulink.Chain(double).run(Context(count=1))
    assert isinstance(result["exception"], SettingError)
    assert "double takes settings by name only" in str(result["exception"])


async def test_a_whole_chain_of_ours_serves_modulink_through_its_run() -> None:
    app = modulink.Chain(counts, Chain(double(), name="inner").run)
    assert (await app.run(Context()))["doubled"] == 2


# The faults


async def test_an_error_does_not_hide_in_the_context() -> None:
    theirs = await modulink.Chain(fails, counts).run(Context())
    assert isinstance(theirs["exception"], ValueError)  # and returned as if nothing were wrong
    with pytest.raises(LinkError, match="link 'fails' failed: ValueError: broken bone"):
        await Chain(fails, counts).run(Context())


async def test_an_error_leaves_the_context_given_as_it_was() -> None:
    theirs, ours = Context(seed=1), Context(seed=1)
    await modulink.Chain(fails).run(theirs)
    assert "exception" in theirs
    with pytest.raises(LinkError):
        await Chain(fails).run(ours)
    assert ours == {"seed": 1}


async def test_middleware_hears_of_a_failure() -> None:
    class Hears(Recorder):
        async def failed(self, each: Any, ctx: Any, error: Any, mwctx: Any) -> None:
            self.heard.append(("failed", each.__name__))

    theirs, ours = Hears(), Hears()
    chain = modulink.Chain(fails)
    chain.use(theirs)
    await chain.run(Context())
    assert theirs.heard == [("before", "fails")]  # and never again
    mine = Chain(fails)
    mine.use(ours)
    with pytest.raises(LinkError):
        await mine.run(Context())
    assert ours.heard == [("before", "fails"), ("failed", "fails")]


@pytest.mark.parametrize(
    ("step", "awaited_by_modulink"),
    [
        (Callee(), False),
        (lambda ctx: counts(ctx), False),
        (functools.partial(Callee()), False),
        (functools.partial(counts), True),
        (Callee().method, True),
    ],
    ids=["object", "lambda", "partial object", "partial", "method"],
)
async def test_whatever_can_be_awaited_is(
    step: Callable[[Any], Awaitable[Any]], awaited_by_modulink: bool
) -> None:
    theirs = await modulink.Chain(step).run(Context())
    assert isinstance(theirs, Context) is awaited_by_modulink
    if not awaited_by_modulink:
        theirs.close()  # the coroutine nobody awaited
    assert (await Chain(step).run(Context()))["count"] == 1


async def test_a_chain_is_a_link() -> None:
    theirs = await modulink.Chain(modulink.Chain(counts)).run(Context())
    assert isinstance(theirs["exception"], TypeError)  # "'Chain' object is not callable"
    inner = Chain(counts, counts)
    assert (await Chain(inner, counts).run(Context()))["count"] == 3
    assert (await Chain(inner.run, counts).run(Context()))["count"] == 3
    assert (await run(Chain(Chain(inner))))["count"] == 2


async def test_a_chain_is_a_target_of_a_route() -> None:
    theirs = modulink.Chain(fails, counts)
    theirs.connect(fails, modulink.Chain(mends), lambda ctx: True)
    stopped = await theirs.run(Context())
    assert "mended" not in stopped
    assert "count" not in stopped  # the target failed without a word, and the chain stopped
    heard = Recorder()
    ours = Chain(fails, counts)
    ours.use(heard)
    ours.connect(fails, Chain(mends, name="clinic"), lambda ctx: True)
    result = await ours.run(Context())
    assert (result["mended"], result["count"]) == ("broken bone", 1)
    assert ("before", "mends") in heard.heard


async def test_a_nested_chain_that_fails_stops_the_outer() -> None:
    theirs = await modulink.Chain(modulink.Chain(fails).run, counts).run(Context())
    assert theirs["count"] == 1  # carried on after the failure
    ran = []
    with pytest.raises(LinkError, match="link 'fails' failed"):
        await Chain(Chain(fails), lambda ctx: ran.append(1)).run(Context())
    assert ran == []


async def test_nothing_is_written_on_middleware() -> None:
    theirs, ours = Recorder(), Recorder()
    for kind, recorder in ((modulink.Chain, theirs), (Chain, ours)):
        chain = kind(counts)
        chain.use(recorder)
        await chain.run(Context())
    assert {"link", "position", "index"} <= vars(theirs).keys()
    assert vars(ours).keys() == {"heard"}


async def test_nothing_is_written_on_links() -> None:
    async def theirs(ctx: dict[str, Any]) -> Any:
        return ctx

    async def ours(ctx: dict[str, Any]) -> Any:
        return ctx

    recorder, bystander = Recorder(), Recorder()
    modulink.Chain(theirs).use(bystander, on_link=theirs, position="before")
    await modulink.Chain(theirs).run(Context())
    assert bystander.heard == [("before", "theirs")]  # heard of another chain's run
    bound = double()
    for each in (ours, bound):
        chain = Chain(each)
        before = dict(vars(each))
        chain.use(recorder, on_link=each, position="before")
        await chain.run(Context(count=1))
        assert vars(each) == before
    await Chain(ours, bound).run(Context(count=1))
    assert recorder.heard == [("before", "ours"), ("before", "double")]


async def _two_runs(kind: Any, middleware: Any) -> None:
    """Two chains share one middleware object; the second runs while the first is in its link."""
    inside, done = asyncio.Event(), asyncio.Event()

    async def first(ctx: dict[str, Any]) -> Any:
        inside.set()
        await done.wait()
        return ctx

    async def second(ctx: dict[str, Any]) -> Any:
        return ctx

    chains = kind(first), kind(second)
    for chain in chains:
        chain.use(middleware)
    slow = asyncio.create_task(chains[0].run(Context()))
    await inside.wait()
    await chains[1].run(Context())
    done.set()
    await slow


async def test_two_overlapping_runs_share_a_middleware_object() -> None:
    class Spans:
        """Keeps its run state in mwctx; sees what modulink wrote on it meanwhile."""

        def __init__(self) -> None:
            self.spans: list[tuple[str, str]] = []
            self.changed: list[bool] = []

        async def before(self, each: Any, ctx: Any, mwctx: Any) -> None:
            mwctx["open"] = each.__name__, dict(vars(self))

        async def after(self, each: Any, ctx: Any, result: Any, mwctx: Any) -> None:
            name, was = mwctx.pop("open")
            self.spans.append((name, each.__name__))
            self.changed.append(was.get("position") == getattr(self, "position", None))

    theirs, ours = Spans(), Spans()
    await _two_runs(modulink.Chain, theirs)
    assert theirs.changed == [False, False]  # 'chain-before' had become 'chain-after'
    await _two_runs(Chain, ours)
    assert ours.changed == [True, True]
    assert ours.spans == [("second", "second"), ("first", "first")]


async def test_a_link_that_returns_nothing_is_named() -> None:
    def forgets(ctx: dict[str, Any]) -> Any:
        ctx["count"] = 1

    assert await modulink.Chain(forgets).run(Context()) is None
    with pytest.raises(TypeError, match="'NoneType' object does not support item assignment"):
        await modulink.Chain(forgets, counts).run(Context())
    with pytest.raises(LinkError, match="link 'forgets' returned NoneType; a link returns a cont"):
        await Chain(forgets, counts).run(Context())


async def test_a_condition_that_raises_is_heard_of() -> None:
    theirs = modulink.Chain(fails)
    theirs.connect(fails, mends, lambda ctx: ctx["severity"] > 3)
    assert "mended" not in await theirs.run(Context())  # and not a word about the KeyError
    ours = Chain(fails)
    ours.connect(fails, mends, lambda ctx: ctx["severity"] > 3)
    message = (
        r"the route from 'fails' to 'mends' cannot be taken or left: its condition raised "
        r"KeyError\('severity'\) on ValueError\('broken bone'\)"
    )
    with pytest.raises(ChainError, match=message) as caught:
        await ours.run(Context())
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_read_only_context_survives_a_failure() -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        await modulink.Chain(fails).run(Context().asImmutable())  # hides the ValueError
    chain = Chain(fails)
    chain.connect(fails, mends, lambda ctx: ctx.isImmutable())
    assert (await chain.run(Context().asImmutable()))["mended"] == "broken bone"
