"""How links and chains are named in errors, records and reprs."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from birdbone.engine import Chain, link, spelled_settings
from birdbone.engine.naming import chain_settings, chains_of, name_of, provided_by, summary


class Nothing(TypedDict):
    pass


class Feather(TypedDict):
    feather: int


@link
async def pluck(ctx: Nothing, *, count: int = 1, words: str = "") -> Feather:
    return {"feather": count}


@link
async def dye(ctx: Feather) -> Feather:
    return {"feather": 0}


@link
async def twice(ctx: Nothing, *, body: Chain) -> Nothing:
    return {}


@link
async def perhaps(
    ctx: Nothing, *, body: Annotated[Chain, "checked"] | None = None, count: int | None = None
) -> Nothing:
    return {}


async def plain(ctx: Any) -> Any:
    return ctx


def test_anything_callable_has_a_name() -> None:
    class Called:
        def __call__(self) -> None: ...

    names = [name_of(each) for each in (pluck(), plain, Chain(name="row"), Called())]
    assert names == ["pluck", "plain", "row", "Called"]


def test_a_summary_holds_what_differs_from_the_defaults() -> None:
    assert summary(pluck()) == "pluck()"
    assert summary(pluck(count=3)) == "pluck(count=3)"
    assert summary(plain) == "plain"
    assert summary(Chain(pluck(), plain)) == "Chain(pluck(), plain, name='chain')"


def test_long_values_are_shortened() -> None:
    spelled = summary(pluck(words="x" * 500))
    assert len(spelled) < 120
    assert "..." in spelled


def test_chains_among_the_settings_are_found_and_written_out() -> None:
    body = Chain(pluck(count=2), Chain(plain, name="inner"))
    outer = twice(body=body)
    assert chains_of(outer) == {"body": body}
    assert chains_of(plain) == chains_of(pluck()) == {}
    assert chain_settings(twice) == chain_settings(perhaps) == ["body"]
    assert chain_settings(pluck) == []
    assert spelled_settings(outer) == {
        "body": [
            {"pluck": {"count": 2, "words": ""}},
            {"name": "inner", "links": ["plain"]},
        ]
    }


def test_a_missing_key_is_followed_by_what_provides_it() -> None:
    assert provided_by("feather") == "; pluck() provides it"  # dye needs it itself
    assert provided_by("no such key") == ""
