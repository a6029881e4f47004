"""A chain that is a setting of a link: what it must contain, and what it must not."""

from __future__ import annotations

from typing import TypedDict

import pytest

from birdbone.engine import Chain, link
from birdbone.engine.bodies import require_body
from birdbone.errors import ChainError


class Nothing(TypedDict):
    pass


class Changed(TypedDict):
    checkpoint: object


@link
async def fetch(ctx: Nothing) -> Nothing:
    return {}


@link
async def shrink(ctx: Nothing) -> Changed:
    return {"checkpoint": None}


@link
async def retrain(ctx: Nothing) -> Changed:
    return {"checkpoint": None}


@link
async def validate(ctx: Nothing) -> Nothing:
    return {}


def check(*links: object) -> None:
    require_body(
        Chain(*links),
        of="rounds",
        needs={"shrink": "nothing is smaller", "validate": "no round is judged"},
        outside={"fetch": "before"},
    )


@pytest.mark.parametrize(
    "links",
    [
        (shrink(), validate()),
        (shrink(), validate(), retrain(), validate()),
        (Chain(shrink()), Chain(retrain(), validate())),
    ],
)
def test_a_body_that_ends_judged_is_accepted(links: tuple[object, ...]) -> None:
    check(*links)


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ((validate(),), "rounds has no shrink link, so nothing is smaller; add shrink()"),
        ((shrink(),), "rounds has no validate link, so no round is judged; add validate()"),
        ((), "rounds has no shrink link, so nothing is smaller; add shrink()"),
        ((fetch(), shrink(), validate()), "rounds contains fetch; put it before rounds"),
        (
            (shrink(), validate(), Chain(shrink(), retrain())),
            "rounds retrain changes the model after validate; put validate last",
        ),
    ],
)
def test_another_is_refused_with_the_fix(links: tuple[object, ...], message: str) -> None:
    with pytest.raises(ChainError) as refused:
        check(*links)
    assert str(refused.value).endswith(f"the body of {message}")


def test_a_body_without_a_judge_is_called_by_its_name() -> None:
    rules = {"of": "rounds", "part": "start", "needs": {"shrink": "all stays"}, "outside": {}}
    require_body(Chain(validate(), shrink()), **rules)
    with pytest.raises(ChainError, match="the start of rounds has no shrink link, so all stays"):
        require_body(Chain(validate()), **rules)
