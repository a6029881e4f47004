"""Settings changed by name in a chain that exists: what changes, what stays, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from birdbone.chains import bird_bone, configure, one_shot, parse_assignment
from birdbone.engine import Chain, link, run
from birdbone.errors import BirdboneError, ChainError, LinkError, SettingError


@link
async def add(ctx: dict[str, Any], *, amount: int = 1, note: str = "") -> dict[str, Any]:
    return {"sum": ctx.get("sum", 0) + amount}


@link
async def fail(ctx: dict[str, Any], *, reason: str = "as told") -> dict[str, Any]:
    raise RuntimeError(reason)


@link
async def rescue(ctx: dict[str, Any], *, total: int = 100) -> dict[str, Any]:
    return {"sum": total, "rescued": str(ctx["exception"])}


async def double(ctx: dict[str, Any]) -> dict[str, Any]:
    return {**ctx, "sum": ctx["sum"] * 2}


class Diary:
    """Middleware that writes down the settings of every link it hears of."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    async def before(self, each: Any, ctx: Any, mwctx: Any) -> None:
        self.heard.append(getattr(getattr(each, "settings", None), "amount", None))


def amounts(chain: Chain) -> list[Any]:
    return [
        amounts(each) if isinstance(each, Chain) else each.settings.amount for each in chain.links
    ]


def test_a_changed_chain_is_new_and_the_old_one_stays() -> None:
    chain = one_shot(model="m", out="o")
    before = [dict(each.settings) for each in chain.links]
    changed = configure(chain, {"prune.sparsity": 0.6, "quantize.bits": 8})
    assert changed.links[4].settings.sparsity == 0.6
    assert changed.links[5].settings.bits == 8
    assert [dict(each.settings) for each in chain.links] == before
    assert changed.__name__ == "one-shot"
    assert (changed.needs, changed.adds, changed.open_ended) == (
        chain.needs,
        chain.adds,
        chain.open_ended,
    )


def test_the_body_of_waves_is_reached_and_a_chain_unchanged_there_is_the_same() -> None:
    chain = bird_bone(model="m", out="o")
    changed = configure(chain, {"heal.epochs": 5, "waves.step": 0.2, "validate#2.batch_size": 1})
    names = [each.__name__ for each in changed.links]
    old, new = (each.links[names.index("waves")] for each in (chain, changed))
    assert new.settings.step == 0.2
    body = new.settings.body
    assert [getattr(each.settings, "epochs", None) for each in body.links] == [None, 5, None]
    assert [each.settings.batch_size for each in (body.links[2], changed.links[7])] == [4, 1]
    assert body.links[0] is old.settings.body.links[0]
    assert old.settings.body.links[1].settings.epochs != 5
    assert configure(chain, {"save.force": True}).links[4] is old


def test_what_waves_sets_itself_is_refused_with_the_mend() -> None:
    with pytest.raises(ChainError, match=r"in the body of waves: .* set the step or the target"):
        configure(bird_bone(model="m", out="o"), {"prune.sparsity": 0.3})


def test_other_settings_of_a_changed_link_are_kept() -> None:
    changed = configure(Chain(add(amount=2, note="kept")), {"add.amount": 5})
    assert dict(changed.links[0].settings) == {"amount": 5, "note": "kept"}


def test_a_name_alone_reaches_every_link_of_that_name_nested_ones_too() -> None:
    chain = Chain(add(), Chain(add(amount=2), add(amount=3)), add(amount=4))
    assert amounts(configure(chain, {"add.amount": 9})) == [9, [9, 9], 9]


@pytest.mark.parametrize(
    ("place", "expected"),
    [(1, [9, [2, 3], 4]), (2, [1, [9, 3], 4]), (3, [1, [2, 9], 4]), (4, [1, [2, 3], 9])],
)
def test_a_number_picks_one_link_in_running_order(place: int, expected: list[Any]) -> None:
    chain = Chain(add(), Chain(add(amount=2), add(amount=3)), add(amount=4))
    assert amounts(configure(chain, {f"add#{place}.amount": 9})) == expected


def test_the_numbered_address_wins_whichever_is_written_first() -> None:
    chain = Chain(add(), add())
    for changes in (
        {"add.amount": 5, "add#2.amount": 7},
        {"add#2.amount": 7, "add.amount": 5},
    ):
        assert amounts(configure(chain, changes)) == [5, 7]


def test_links_that_do_not_change_are_the_same_objects() -> None:
    chain = Chain(add(), double, add())
    changed = configure(chain, {"add#2.amount": 5})
    assert changed.links[:2] == chain.links[:2]
    assert changed.links[2] is not chain.links[2]


async def test_a_plain_function_among_the_links_still_runs() -> None:
    result = await run(configure(Chain(add(), double), {"add.amount": 5}))
    assert result["sum"] == 10


async def test_middleware_comes_along_and_later_additions_do_not_spread() -> None:
    diary, late = Diary(), Diary()
    inner = Chain(add(amount=2))
    inner.use(diary)
    chain = Chain(inner, add())
    changed = configure(chain, {"add.amount": 5})
    changed.use(late)
    await run(changed)
    assert diary.heard == [5]
    await run(chain)
    assert diary.heard == [5, 2]
    assert late.heard == [None, 5, 5]


async def test_middleware_on_one_link_follows_it_to_its_successor() -> None:
    nested, direct = Diary(), Diary()
    first, second = add(amount=1), add(amount=2)
    chain = Chain(first, Chain(second))
    chain.use(direct, on_link=first, position="before")
    chain.use(nested, on_link=second, position="before")
    await run(configure(chain, {"add#1.amount": 5, "add#2.amount": 7}))
    assert (direct.heard, nested.heard) == ([5], [7])


async def test_routes_start_at_the_rebuilt_link_and_lead_where_they_led() -> None:
    broken = fail()
    chain = Chain(add(), broken, double)
    chain.connect(broken, rescue(), lambda ctx: "changed" in str(ctx["exception"]))
    changed = configure(chain, {"fail.reason": "changed"})
    result = await run(changed)
    assert (result["sum"], result["rescued"]) == (200, "changed")
    with pytest.raises(LinkError, match="as told"):
        await run(chain)


async def test_one_object_in_two_places_may_become_two_and_keeps_its_routes_at_both() -> None:
    broken = fail()
    chain = Chain(broken, broken)
    chain.connect(broken, rescue(), lambda ctx: True)
    changed = configure(chain, {"fail#2.reason": "second"})
    assert changed.links[0] is broken
    assert (await run(changed))["rescued"] == "second"
    assert (await run(chain))["rescued"] == "as told"


def test_a_kind_of_chain_of_ones_own_stays_that_kind() -> None:
    class Named(Chain):
        motto = "as it was"

    changed = configure(Named(Named(add())), {"add.amount": 5})
    assert isinstance(changed, Named)
    assert isinstance(changed.links[0], Named)
    assert amounts(changed) == [[5]]


def refuses(chain: Callable[..., Chain], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        configure(chain(model="m", out="o"), changes)


def test_an_unknown_link_is_refused_with_the_nearest() -> None:
    refuses(bird_bone, {"prun.sparsity": 0.3}, "'bird-bone' has no link 'prun'; did you.*'prune'")


def test_a_link_that_exists_but_is_not_in_the_chain_is_said_so() -> None:
    message = "'one-shot' has no heal, so heal.rank sets nothing; its links: load, calibrate"
    refuses(one_shot, {"heal.rank": 3}, message)


def test_an_unknown_setting_is_refused_with_the_nearest() -> None:
    refuses(bird_bone, {"prune.sparsiti": 0.3}, "prune has no setting 'sparsiti'.*'sparsity'")


def test_a_number_beyond_the_links_there_are_is_refused() -> None:
    refuses(bird_bone, {"prune#2.sparsity": 0.3}, "has prune only once; there is no prune#2")
    with pytest.raises(SettingError, match="only 2 links add; there is no add#3"):
        configure(Chain(add(), add()), {"add#3.amount": 1})


def test_a_value_out_of_range_is_refused_by_name() -> None:
    refuses(bird_bone, {"prune.sparsity": 1.5}, r"prune\(sparsity=1.5\)")


@pytest.mark.parametrize(
    "key", ["prune", "prune.", ".sparsity", "prune#0.sparsity", "prune#x.sparsity", "a.b.c", ""]
)
def test_what_is_no_address_is_refused_with_the_form(key: str) -> None:
    refuses(bird_bone, {key: 1}, "write link.setting, as in prune.sparsity")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.3", 0.3),
        ("1e-4", 1e-4),
        ("4", 4),
        ("true", True),
        ("null", None),
        ("2:4", "2:4"),
        ("no", "no"),
        ("[1, 2]", [1, 2]),
        ("'0.3'", "0.3"),
        ("a=b", "a=b"),
        ("package:llm/x.gguf", "package:llm/x.gguf"),
    ],
)
def test_the_value_of_an_assignment_is_what_it_looks_like(text: str, value: Any) -> None:
    key, found = parse_assignment(f"prune.sparsity={text}")
    assert key == "prune.sparsity"
    assert found == value
    assert isinstance(found, type(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune.sparsity", "sets nothing; write link.setting=value"),
        ("prune=3", "names no setting"),
        ("prune.sparsity=", "write prune.sparsity=null if none is meant"),
        ("prune.sparsity= ", "write prune.sparsity=null if none is meant"),
        ("load.model=@home", "load.model: .*put text with signs of its own in quotes"),
        ("load.model=[", "put text with signs of its own in quotes"),
        ("load.model=*x", "alias"),
    ],
)
def test_a_bad_assignment_is_refused_with_its_mend(text: str, message: str) -> None:
    with pytest.raises(BirdboneError, match=message):
        parse_assignment(text)
