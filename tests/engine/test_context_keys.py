"""Keys of a TypedDict whose annotations are strings, as in every module of this package."""

from __future__ import annotations

from typing import Any, NotRequired, Required, TypedDict

import pytest

from birdbone.engine.context_keys import all_keys, required_keys


class Base(TypedDict):
    one: int


class Partly(Base, total=False):
    two: str
    three: Required[int]


class Optional(Base):
    four: NotRequired[Any]
    five: int


def test_required_keys_follow_the_markers() -> None:
    assert required_keys(Base) == {"one"}
    assert required_keys(Partly) == {"one", "three"}
    assert required_keys(Optional) == {"one", "five"}


def test_all_keys_contain_the_optional_ones() -> None:
    assert all_keys(Partly) == {"one", "two", "three"}
    assert all_keys(Optional) == {"one", "four", "five"}


@pytest.mark.parametrize("annotation", [dict, dict[str, Any], Any, None, int])
def test_another_annotation_declares_nothing(annotation: Any) -> None:
    assert required_keys(annotation) == frozenset()
    assert all_keys(annotation) is None
