"""Continuations and worst windows: what is marked, and that it is escaped."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import record, worst_window

from birdbone.reports.html_report.examples import samples, worst_windows
from birdbone.reports.html_report.records import ModelRecord, model_record

HOSTILE = "<script>alert('&')</script>"


def model(**more: Any) -> ModelRecord:
    return model_record("light", record(**more))


def sides(dense: str, light: str) -> tuple[str, str]:
    """The two continuations of one prompt, as HTML."""
    html = samples(model(samples=[{"prompt": "p", "dense": dense, "light": light}]))
    first, second = re.findall(r"<div><h4>(?:original|light)</h4><p>(.*?)</p></div>", html, re.S)
    return first, second


@pytest.mark.parametrize(
    ("dense", "light", "marked"),
    [
        ("on a mat", "on the dog", ("on <mark>a mat</mark>", "on <mark>the dog</mark>")),
        ("abc", "abcd", ("abc", "abc<mark>d</mark>")),
        ("", "x", ("", "<mark>x</mark>")),
        ("same", "same", ("same", "same")),
        ("a < b", "a < c", ("a &lt; <mark>b</mark>", "a &lt; <mark>c</mark>")),
    ],
)
def test_both_are_marked_from_where_they_part(
    dense: str, light: str, marked: tuple[str, str]
) -> None:
    assert sides(dense, light) == marked


TEXT = st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs")), max_size=8)


@given(TEXT, TEXT)
def test_marks_change_no_text(dense: str, light: str) -> None:
    for html, text in zip(sides(dense, light), (dense, light), strict=True):
        assert unescape(re.sub(r"</?mark>", "", html)) == text


def test_that_both_write_the_same_is_said() -> None:
    alike = {"prompt": "p", "dense": "x", "light": "x"}
    assert "Both models write the same." in samples(model(samples=[alike]))
    assert "Both models write the same." not in samples(model())


def test_without_samples_there_is_no_section() -> None:
    assert samples(model(samples=[])) == samples(model(samples=None)) == ""


def test_without_worst_windows_there_is_no_section() -> None:
    assert worst_windows(model(worst_windows={"heldout": []})) == ""
    assert worst_windows(model(worst_windows=None)) == ""


def test_nothing_of_a_record_becomes_markup() -> None:
    keys = ("origin", "prompt", "dense", "light")
    hostile = model(
        samples=[dict.fromkeys(keys, HOSTILE)],
        samples_missing=HOSTILE,
        worst_windows={HOSTILE: [worst_window(before=HOSTILE, token=HOSTILE, after=HOSTILE)]},
    )
    assert "<script" not in samples(hostile) + worst_windows(hostile)
