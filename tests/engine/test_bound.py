"""A link with its settings: how others see it, and what it takes over from chains inside it."""

from __future__ import annotations

import copy
import inspect
from typing import Any, TypedDict

import pytest
from modulink import Chain as Plain

from birdbone.engine import Chain, Link, link
from birdbone.errors import ChainError


class Bone(TypedDict):
    bone: int


class Marrow(TypedDict):
    marrow: int


class Light(TypedDict):
    light: int


@link
async def lighten(ctx: Bone, *, by: int = 1, note: str = "") -> Light:
    """Make it lighter."""
    return {"light": ctx["bone"] - by}


@link
async def drain(ctx: Marrow) -> Light:
    return {"light": ctx["marrow"]}


@link
async def anything(ctx: Bone) -> dict[str, Any]:
    return {"light": 0, "more": 1}


@link
async def repeated(ctx: Bone, *, body: Chain, times: int = 2) -> Light:
    return {"light": times}


def test_it_is_called_as_the_function_it_is_made_of() -> None:
    made = lighten(by=3)
    assert isinstance(made, Link)
    assert made.__name__ == "lighten"
    assert made.__doc__ is not None
    assert made.__doc__.startswith("Make it lighter.")
    assert made.factory is lighten
    assert dict(made.settings) == {"by": 3, "note": ""}


async def test_modulink_awaits_it() -> None:
    assert inspect.iscoroutinefunction(lighten())
    found = await Plain(lighten(by=2)).run({"bone": 5})
    assert found["light"] == 3


async def test_the_context_is_its_one_argument() -> None:
    assert (await lighten(by=2)({"bone": 5}))["light"] == 3
    with pytest.raises(ChainError, match="lighten needs 'bone', which the context lacks"):
        await lighten()({})


@pytest.mark.parametrize(
    ("made", "spelled"),
    [
        (lighten(), "lighten()"),
        (lighten(by=2), "lighten(by=2)"),
        (lighten(by=1, note="x"), "lighten(note='x')"),
        (
            repeated(body=Chain(lighten(by=4), name="twice")),
            "repeated(body=Chain(lighten(by=4), name='twice'))",
        ),
    ],
)
def test_its_repr_is_how_it_is_spelled(made: Link[Any], spelled: str) -> None:
    assert repr(made) == spelled


def test_a_long_setting_is_shortened() -> None:
    assert len(repr(lighten(note="x" * 1000))) < 120


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_the_link_itself(copied: Any) -> None:
    made = lighten(by=2)
    assert copied(made) is made
    assert copied([made])[0] is made


def test_its_contract_is_the_functions() -> None:
    made = lighten()
    assert (made.needs, made.adds, made.open_ended) == ({"bone"}, {"light"}, False)
    assert anything().open_ended


def test_it_needs_what_chains_inside_it_need() -> None:
    made = repeated(body=Chain(drain()))
    assert (made.needs, made.adds, made.open_ended) == ({"bone", "marrow"}, {"light"}, False)
    assert repeated.needs == {"bone"}  # the factory's own contract is not changed
    assert repeated(body=Chain(anything())).open_ended


def test_two_of_the_same_settings_are_two_links() -> None:
    assert lighten(by=2) != lighten(by=2)
    assert lighten(by=2).settings == lighten(by=2).settings
