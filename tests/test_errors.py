"""The tree of errors, and the words that their messages are made of."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdbone import errors
from birdbone.errors import (
    BirdboneError,
    LinkError,
    MissingExtraError,
    ModelError,
    SettingError,
    did_you_mean,
    first_names,
)

TREE = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
]
names = st.lists(st.text("abcxyz", min_size=1, max_size=6), max_size=6)


@pytest.mark.parametrize(
    "kind", [each for each in TREE if each not in (LinkError, errors.RankError)]
)
def test_one_root_catches_all(kind: Any) -> None:
    with pytest.raises(BirdboneError, match="a layer is too wide"):
        raise kind("a layer is too wide")


@pytest.mark.parametrize("kind", TREE)
def test_each_is_documented(kind: type[Exception]) -> None:
    assert kind.__doc__


def test_kinds_of_python() -> None:
    """Callers that know nothing of birdbone catch what they would expect."""
    with pytest.raises(ValueError, match="out of range"):
        raise SettingError("out of range")
    with pytest.raises(ImportError, match="pip install"):
        raise MissingExtraError("pip install 'birdbone[plot]'")


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (ModelError("no such model"), "link 'load' failed: no such model"),
        (KeyError("scores"), "link 'load' failed: KeyError: 'scores'"),
        (ZeroDivisionError(), "link 'load' failed: ZeroDivisionError"),
        (ModelError(""), "link 'load' failed: "),
    ],
)
def test_a_failed_link_says_why(cause: Exception, words: str) -> None:
    error = LinkError("load", {"model": "m"}, cause)
    assert str(error) == words
    assert error.__cause__ is cause


def test_notes_are_part_of_the_reason() -> None:
    cause = ModelError("too wide")
    cause.add_note("half the batch size was tried")
    cause.add_note("at one window")
    assert str(LinkError("heal", {}, cause)) == (
        "link 'heal' failed: too wide; half the batch size was tried; at one window"
    )


def test_settings_are_a_copy() -> None:
    given_settings = {"sparsity": 0.5}
    error = LinkError("prune", given_settings, ModelError("x"))
    given_settings["sparsity"] = 0.9
    assert (error.link, error.settings) == ("prune", {"sparsity": 0.5})


def test_it_travels_between_processes() -> None:
    cause = ModelError("too wide")
    cause.add_note("of 8 GB")
    found = pickle.loads(pickle.dumps(LinkError("prune", {"sparsity": 0.5}, cause)))
    assert (found.link, found.settings) == ("prune", {"sparsity": 0.5})
    assert str(found) == "link 'prune' failed: too wide; of 8 GB"
    assert type(found.__cause__) is ModelError


def test_the_nearest_name() -> None:
    assert did_you_mean("sparsty", ["method", "sparsity"]) == "did you mean 'sparsity'?"


def test_all_names_where_none_is_near() -> None:
    assert did_you_mean("qqq", {"b", "a"}) == "known: a, b"
    assert did_you_mean("qqq", []) == "known: none"


@settings(max_examples=40)
@given(st.text("abcxyz", max_size=6), names)
def test_a_hint_is_of_the_choices(found: str, choices: list[str]) -> None:
    hint = did_you_mean(found, iter(choices))
    if hint.startswith("did you mean "):
        assert hint.removeprefix("did you mean '").removesuffix("'?") in choices
    else:
        assert hint == f"known: {', '.join(sorted(choices)) or 'none'}"
    if found in choices:
        assert hint == f"did you mean '{found}'?"


@settings(max_examples=40)
@given(names, st.integers(1, 4))
def test_first_names(every: list[str], shown: int) -> None:
    """An ellipsis exactly where some are left out."""
    text = first_names(every, shown)
    assert text.endswith(", …") == (len(every) > shown)
    assert [each for each in text.split(", ") if each not in ("…", "")] == every[:shown]


def test_three_names_by_default() -> None:
    assert first_names(["a", "b", "c"]) == "a, b, c"
    assert first_names(["a", "b", "c", "d"]) == "a, b, c, …"
