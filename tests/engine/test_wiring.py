"""What a row of links needs and adds, and the orders that are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import pytest

from birdbone.engine import Chain, every_link, link
from birdbone.engine.wiring import check_order, wire
from birdbone.errors import ChainError


class Nothing(TypedDict):
    pass


class Egg(TypedDict):
    egg: int


class Chick(TypedDict):
    chick: int


@link
async def lay(ctx: Nothing) -> Egg:
    return {"egg": 1}


@link
async def hatch(ctx: Egg) -> Chick:
    return {"chick": 1}


@link
async def turn(ctx: Egg) -> Egg:
    return {"egg": 2}


@link
async def rest(ctx: Nothing, *, body: Chain | None = None) -> Nothing:
    return {}


@rest.follows
def _once(settings: Any, earlier: Sequence[Any]) -> None:
    if any(getattr(each, "__name__", "") == "rest" for each in earlier):
        raise ChainError("rest twice")


async def plain(ctx: Any) -> Any:
    return ctx


def test_keys_that_no_earlier_link_adds_are_needed() -> None:
    assert wire([lay(), hatch()]) == (frozenset(), {"egg", "chick"}, False)
    assert wire([hatch()]) == ({"egg"}, {"chick"}, False)
    assert wire([]) == (frozenset(), frozenset(), False)


def test_after_a_plain_function_any_key_may_be_there() -> None:
    assert wire([plain, hatch()]) == (frozenset(), {"chick"}, True)
    assert wire([hatch(), plain]) == ({"egg"}, {"chick"}, True)


@pytest.mark.parametrize(
    ("between", "place"), [(0, "one place"), (1, "two places"), (11, "12 places")]
)
def test_a_provider_that_comes_later_is_named_with_its_place(between: int, place: str) -> None:
    links = [hatch(), *([rest()] if between else []), *[plain] * (between - 1), lay()]
    with pytest.raises(ChainError, match=rf"hatch needs 'egg'; lay\(\), {place} later, provides"):
        wire(links)


def test_a_link_that_passes_a_key_on_is_no_provider() -> None:
    assert wire([hatch(), turn()])[0] == {"egg"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(lay, r"lay is a factory: write lay\(\)"), (3, "position 2 of the chain holds 3, which is")],
)
def test_what_is_no_link_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ChainError, match=message):
        wire([plain, wrong])


def test_links_of_nested_chains_come_in_running_order() -> None:
    first, second, inner = lay(), hatch(), turn()
    holder = rest(body=Chain(inner))
    row = [Chain(first, Chain(plain)), holder, second]
    assert list(every_link(row)) == [first, plain, holder, inner, second]


def test_order_is_checked_through_nested_chains() -> None:
    check_order([rest(), lay()])
    with pytest.raises(ChainError, match="rest twice"):
        check_order([Chain(rest()), lay(), Chain(Chain(rest()))])
    with pytest.raises(ChainError, match="rest twice"):
        check_order([rest(body=Chain(rest()))])
