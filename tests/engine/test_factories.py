"""What one link promises: its settings, its contract, its errors, the purity of its context."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, NotRequired, Required, TypedDict

import pytest
from modulink import Context
from pydantic import Field, ValidationError

from birdbone.contexts.forecast import Forecast
from birdbone.contexts.steps import Step
from birdbone.engine import Chain, chain_settings, link, run
from birdbone.errors import ChainError, LinkError, SettingError


class Weighed(TypedDict):
    weights: list[float]


class Thinned(TypedDict):
    thin: list[float]
    metrics: NotRequired[Mapping[str, float]]


class Bronze(TypedDict):
    bronze: int


class Iron(TypedDict):
    iron: int


class Measured(TypedDict):
    mean: float
    metrics: Mapping[str, float]


class Bone(TypedDict):
    bone: int


class Partial(TypedDict, total=False):
    must: Required[int]
    may: int


class Base(TypedDict):
    first: int
    optional: NotRequired[int]


class Derived(Base):
    second: int


@link
async def thin(
    ctx: Weighed, *, sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.5, groups: int = 1
) -> Thinned:
    """Keep the first weights."""
    kept = ctx["weights"][: round(len(ctx["weights"]) * (1 - sparsity))]
    return {"thin": kept, "metrics": {"kept": len(kept)}}


@link
async def demands(ctx: Weighed, *, bits: int) -> Thinned:
    return {"thin": ctx["weights"] * bits}


def test_a_link_is_a_coroutine_function_that_knows_its_contract() -> None:
    made = thin(sparsity=0.25)
    assert inspect.iscoroutinefunction(made)
    assert made.__name__ == "thin"
    assert made.__doc__ == "Keep the first weights."
    assert dict(made.settings) == {"sparsity": 0.25, "groups": 1}
    assert made.needs == {"weights"}
    assert made.adds == {"thin"}
    assert made.factory is thin


async def test_settings_reach_the_function_and_the_history() -> None:
    result = await run(thin(sparsity=0.75), {"weights": [1.0, 2.0, 3.0, 4.0]})
    assert result["thin"] == [1.0]
    (step,) = result["history"]
    assert isinstance(step, Step)
    assert (step.link, step.settings["sparsity"]) == ("thin", 0.75)


async def test_metrics_go_to_the_history_and_not_to_the_context() -> None:
    result = await run(thin(), {"weights": [1.0, 2.0]})
    assert "metrics" not in result
    assert result["history"][0].metrics == {"kept": 1}


def test_metrics_are_no_key_that_a_link_gives() -> None:
    @link
    async def measures(ctx: Weighed) -> Measured:
        return {"mean": 0.0, "metrics": {}}

    assert measures.adds == {"mean"}


async def test_history_is_appended_to_and_never_rewritten() -> None:
    first = await run(thin(), {"weights": [1.0, 2.0]})
    second = await run(thin(), first)
    assert len(first["history"]) == 1
    assert second["history"][0] is first["history"][0]
    assert len(second["history"]) == 2


async def test_the_history_names_the_checkpoint_a_link_left() -> None:
    class Model:
        id = "abc"

    @link
    async def loads(ctx: dict[str, Any]) -> dict[str, Any]:
        return {"checkpoint": Model()}

    result = await run(Chain(loads(), thin()), {"weights": []})
    assert [step.checkpoint for step in result["history"]] == ["abc", "abc"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsty": 0.5}, r"^thin has no setting 'sparsty'; did you mean 'sparsity'\?$"),
        ({"zzz": 1}, r"^thin has no setting 'zzz'; known: groups, sparsity$"),
        ({"sparsity": 1.5}, r"^thin\(sparsity=1.5\): Input should be less than 1$"),
        ({"groups": "many"}, r"^thin\(groups='many'\): Input should be a valid integer"),
        ({"sparsity": 2, "groups": None}, r"thin\(sparsity=2\).*; thin\(groups=None\)"),
    ],
)
def test_a_wrong_setting_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        thin(**settings)


def test_a_setting_without_default_is_asked_for() -> None:
    with pytest.raises(SettingError, match=r"^demands\(bits\): Field required$"):
        demands()  # type: ignore[call-arg]


def test_settings_come_by_name_and_a_long_value_is_shortened_in_the_error() -> None:
    with pytest.raises(SettingError, match=r"thin takes settings by name only, found 0.3"):
        thin(0.3)  # type: ignore[call-arg]
    with pytest.raises(SettingError) as caught:
        thin({"weights": list(range(10_000))})  # type: ignore[call-arg]
    assert len(str(caught.value)) < 200


def test_settings_are_read_only() -> None:
    made = thin()
    with pytest.raises(ValidationError, match="Instance is frozen"):
        made.settings.sparsity = 0.9


def test_the_settings_of_one_link_do_not_reach_the_next() -> None:
    @link
    async def lists(ctx: Weighed, *, layers: list[int] = []) -> Thinned:  # noqa: B006 - the point
        return {"thin": []}

    given = [1]
    made, other = lists(layers=given), lists()
    given.append(2)
    assert made.settings.layers == [1]
    other.settings.layers.append(7)
    assert lists().settings.layers == []


def test_only_async_functions_become_links() -> None:
    with pytest.raises(ChainError, match="write 'async def plain'"):

        @link
        def plain(ctx: Weighed) -> Thinned:  # type: ignore[arg-type]
            return {"thin": []}


def test_a_setting_must_be_typed_and_keyword_only() -> None:
    with pytest.raises(ChainError, match="setting 'bits' of link loose must be keyword-only"):

        @link
        async def loose(ctx: Weighed, bits: int = 4) -> Thinned:
            return {"thin": []}

    with pytest.raises(ChainError, match=r"setting 'bits' of link untyped must be .* typed"):

        @link
        async def untyped(ctx: Weighed, *, bits=4) -> Thinned:  # type: ignore[no-untyped-def]
            return {"thin": []}

    with pytest.raises(ChainError, match="setting 'rest' of link catches must be keyword-only"):

        @link
        async def catches(ctx: Weighed, **rest: int) -> Thinned:
            return {"thin": []}


def test_optional_keys_are_neither_needed_nor_promised() -> None:
    @link
    async def partial(ctx: Partial) -> Derived:
        return {"first": 1, "second": 2}

    assert partial.needs == {"must"}
    assert partial.adds == {"first", "second"}


async def test_a_missing_key_is_named_with_the_link_that_gives_it() -> None:
    @link
    async def weighs(ctx: dict[str, Any]) -> Weighed:
        return {"weights": [1.0]}

    message = r"^thin needs 'weights', which the context lacks; weighs\(\) provides it$"
    with pytest.raises(ChainError, match=message):
        await thin()({})
    with pytest.raises(ChainError, match="thin needs 'weights', which no earlier link provides; w"):
        await run(thin(), {})


async def test_a_link_defined_twice_is_named_once() -> None:
    def defines() -> None:
        @link
        async def casts(ctx: dict[str, Any]) -> Bronze:
            return {"bronze": 1}

    defines()
    defines()

    @link
    async def rings(ctx: Bronze) -> dict[str, Any]:
        return {}

    with pytest.raises(ChainError, match=r"the context lacks; casts\(\) provides it$"):
        await rings()({})


async def test_a_link_that_only_hands_a_key_on_is_no_mend() -> None:
    @link
    async def hands_on(ctx: Bone) -> Bone:
        return {"bone": ctx["bone"]}

    with pytest.raises(
        ChainError, match=r"^hands_on needs 'bone', which no earlier link provides$"
    ):
        await run(hands_on())


async def test_a_link_keeps_its_promise_or_is_named() -> None:
    @link
    async def forgets(ctx: Weighed) -> Thinned:
        return {}  # type: ignore[typeddict-item]

    with pytest.raises(
        ChainError, match=r"^forgets declares that it adds 'thin' but did not return it$"
    ):
        await forgets()({"weights": []})


@pytest.mark.parametrize("returned", [None, 3, [("thin", [])]])
async def test_a_link_returns_a_dict_or_is_named(returned: Any) -> None:
    @link
    async def empty(ctx: Weighed) -> Thinned:
        return returned  # type: ignore[no-any-return]

    kind = type(returned).__name__
    with pytest.raises(LinkError, match=f"link 'empty' returned {kind}; a link returns a context"):
        await run(empty(), {"weights": []})


async def test_the_context_given_stays_as_it_was_even_when_a_link_writes_into_its_own() -> None:
    @link
    async def scribbles(ctx: dict[str, Any]) -> dict[str, Any]:
        ctx["weights"] = "gone"
        ctx["noise"] = 1
        return {"added": 2}

    async def plain(ctx: dict[str, Any]) -> dict[str, Any]:
        ctx.clear()
        ctx["left"] = True
        return ctx

    given = {"weights": [1.0]}
    before = copy.deepcopy(given)
    result = await scribbles()(given)
    assert given == before
    assert result["weights"] == [1.0]
    assert "noise" not in result
    assert set(await run(Chain(plain, scribbles()), given)) == {"left", "added", "history"}
    assert given == before


async def test_a_result_and_an_error_can_be_copied_and_sent_to_another_process() -> None:
    result = await run(thin(sparsity=0.5), {"weights": [1.0, 2.0]})
    assert pickle.loads(pickle.dumps(result)) == copy.deepcopy(result) == result
    error = pickle.loads(pickle.dumps(LinkError("thin", {"sparsity": 0.5}, ValueError("no"))))
    assert (str(error), error.settings) == ("link 'thin' failed: ValueError: no", {"sparsity": 0.5})
    assert isinstance(error.__cause__, ValueError)


async def test_the_history_states_what_each_link_cost() -> None:
    size = 128 * 2**20

    @link
    async def allocates(ctx: Weighed, *, heavy: bool) -> Thinned:
        block = bytearray(b"x") * (size if heavy else 1)
        return {"thin": [float(block[-1])]}

    chain = Chain(*[allocates(heavy=heavy) for heavy in (False, True, False)])
    before, heavy, after = [step.cost for step in (await run(chain, {"weights": []}))["history"]]
    assert heavy.seconds > 0
    if heavy.peak_of == "cuda":
        pytest.skip("the peak counted is that of the GPU, which this link does not touch")
    slack = size // 4  # other threads of this process come and go
    if heavy.peak_of == "process":
        assert heavy.peak_bytes > before.peak_bytes + size - slack
        assert after.peak_bytes < heavy.peak_bytes - size + slack
    assert heavy.peak_bytes >= size


@pytest.mark.parametrize("kind", [Context, lambda items: Context(items).asImmutable()])
async def test_modulink_contexts_stay_of_their_kind(kind: Any) -> None:
    given = kind({"weights": [1.0, 2.0]})
    result = await run(Chain(thin(), thin()), given)
    assert type(result) is type(given)
    assert result["thin"] == [1.0]
    assert set(given) == {"weights"}


async def test_a_read_only_mapping_will_do_and_a_dict_comes_back() -> None:
    assert type(await run(thin(), MappingProxyType({"weights": []}))) is dict


def test_a_forecast_states_what_a_link_will_need() -> None:
    @link
    async def heavy(ctx: Weighed, *, factor: int = 2) -> Thinned:
        return {"thin": []}

    assert heavy.hooks.forecast is None

    @heavy.forecast
    def need(ctx: Weighed, settings: Any) -> Forecast:
        return Forecast(memory_bytes=len(ctx["weights"]) * 4 * settings.factor)

    made = heavy(factor=3)
    assert made.factory.hooks.forecast is need
    assert need({"weights": [1.0, 2.0]}, made.settings).memory_bytes == 24


@link
async def cast(ctx: Weighed) -> Iron:
    return {"iron": 1}


@link
async def melt(ctx: Iron) -> Thinned:
    return {"thin": []}


@link
async def wary(ctx: Weighed, *, limit: int) -> Thinned:
    return {"thin": []}


@wary.check
def _limited(ctx: Any, settings: Any) -> None:
    if len(ctx.get("weights", ())) > settings.limit:
        raise SettingError("over the limit")


@link
async def repeat(ctx: Weighed, *, body: Chain, times: int = 2) -> Thinned:
    for _ in range(times):
        ctx = await body.run(ctx)
    return {"thin": ctx["thin"]}


async def unannotated(ctx: Any) -> Any:
    return ctx


def test_a_link_with_a_chain_among_its_settings_needs_what_the_chain_needs() -> None:
    plain = repeat(body=Chain(thin()))
    assert (plain.needs, plain.adds, plain.open_ended) == ({"weights"}, {"thin"}, False)
    assert repeat(body=Chain(melt())).needs == {"weights", "iron"}
    assert repeat(body=Chain(unannotated)).open_ended
    assert chain_settings(repeat) == ["body"]
    with pytest.raises(ChainError, match=r"repeat needs 'iron'; cast\(\), one place later"):
        Chain(repeat(body=Chain(melt())), cast())


def test_a_link_hears_what_it_would_follow_in_running_order_and_may_refuse() -> None:
    @link
    async def late(ctx: Weighed, *, after: str = "cast") -> Thinned:
        return {"thin": []}

    heard: list[list[str]] = []

    @late.follows
    def _not_after(settings: Any, earlier: Sequence[Any]) -> None:
        heard.append([each.__name__ for each in earlier])
        if heard[-1].count(settings.after):
            raise ChainError(f"late cannot follow {settings.after}; put it earlier")

    Chain(unannotated, Chain(thin(), name="inner"), repeat(body=Chain(wary(limit=1))), late())
    assert heard == [["unannotated", "thin", "repeat", "wary"]]
    for row in ([cast(), late()], [cast(), repeat(body=Chain(late()))], [cast(), Chain(late())]):
        with pytest.raises(ChainError, match="late cannot follow cast; put it earlier"):
            Chain(*row)
    Chain(late(), cast())
    Chain(cast(), late(after="melt"))


async def test_a_chain_among_the_settings_is_asked_early_and_recorded_as_plain_data() -> None:
    chain = Chain(thin(), repeat(body=Chain(wary(limit=1), thin(), name="body")))
    with pytest.raises(LinkError, match="over the limit") as caught:
        await run(chain, {"weights": [1.0, 2.0]})
    assert caught.value.link == "wary"
    after = await run(chain, {"weights": [1.0]})
    body = [{"wary": {"limit": 1}}, {"thin": {"sparsity": 0.5, "groups": 1}}]
    assert after["history"][-1].settings == {"body": body, "times": 2}
    error = LinkError("repeat", after["history"][-1].settings, ChainError("no"))
    assert pickle.loads(pickle.dumps(error)).settings == error.settings
