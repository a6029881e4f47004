"""The body of select: what it must contain, and what belongs outside."""

from __future__ import annotations

from typing import Any

import pytest

from birdbone.engine import Chain
from birdbone.errors import ChainError, SettingError
from birdbone.links import (
    allocate,
    calibrate,
    heal,
    load,
    prune,
    quantize,
    save,
    select,
    sensitivity,
    validate,
)
from birdbone.links.allocating.body import check_select_body


def whole() -> Chain:
    return Chain(quantize(), validate())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda: Chain(validate()), "body of select has no quantize link, so no candidate is buil"),
        (lambda: Chain(quantize()), r"has no validate link, so none is judged; add validate\(\)"),
        (lambda: Chain(load(model="m"), *whole().links), "contains load; put it before select"),
        (lambda: Chain(calibrate(), *whole().links), "contains calibrate; put it before select"),
        (lambda: Chain(sensitivity(), *whole().links), "contains sensitivity; put it before"),
        (lambda: Chain(allocate(), *whole().links), "contains allocate; put it before select"),
        (lambda: Chain(prune(), *whole().links), "contains prune; put it before select"),
        (lambda: Chain(*whole().links, save(path="o")), "contains save; put it after select"),
        (lambda: Chain(select(body=whole()), *whole().links), "select; put it beside select"),
        (lambda: Chain(quantize(), validate(), heal()), "heal changes the model after validate"),
    ],
)
def test_refused(body: Any, message: str) -> None:
    with pytest.raises(ChainError, match=message):
        select(body=body())


@pytest.mark.parametrize(
    "body",
    [
        whole,
        lambda: Chain(quantize(), heal(), validate()),
        lambda: Chain(Chain(quantize()), Chain(validate())),
        lambda: Chain(quantize(), validate(), validate()),
    ],
)
def test_taken_as_it_is(body: Any) -> None:
    chain = body()
    assert check_select_body(chain) is chain


def test_what_is_no_chain() -> None:
    with pytest.raises(SettingError, match=r"select\(body='quantize'\): .*instance of Chain"):
        select(body="quantize")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"select\(body\): Field required"):
        select()  # type: ignore[call-arg]
