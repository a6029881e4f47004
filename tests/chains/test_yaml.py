"""The narrow YAML door: words mean what they look like, nothing but plain data passes."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdbone.chains.yaml import Items, Table, read_yaml, write_yaml
from birdbone.errors import SettingError

words = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.from_regex(r"[-+0-9.eE:_xo]{1,6}", fullmatch=True),
)
trees = st.recursive(
    words,
    lambda inside: st.lists(inside, max_size=3)
    | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=6), inside),
    max_leaves=8,
)


def read(text: str) -> Any:
    return read_yaml(text, source="here")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("TRUE", True),
        ("010", 10),
        ("0x1F", 31),
        ("-0", 0),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("2:4", "2:4"),
        ("1_000", "1_000"),
        ("yes", "yes"),
        ("off", "off"),
        ("2024-01-01", "2024-01-01"),
        ("'3'", "3"),
        ("!!str 3", "3"),
        ("<<: 1", {"<<": 1}),
    ],
)
def test_words_mean_what_they_look_like(text: str, value: Any) -> None:
    found = read(text)
    assert found == value
    assert isinstance(found, type(value))


def test_nan_is_read() -> None:
    assert math.isnan(read(".nan"))


def test_tables_and_lists_know_their_lines() -> None:
    table = read("a: 1\n\nb:\n  - x\n  - y: 2\n")
    assert isinstance(table, Table)
    assert isinstance(table["b"], Items)
    assert (table.lines, table["b"].lines) == ({"a": 1, "b": 3}, [4, 5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: *x", "here, line 2: '\\*x' is an alias"),
        ("a: &x [1]\nb: *x", "line 2: '\\*x' is an alias"),
        ("a: 1\nb: 2\na: 3", "line 3: 'a' stands here a second time"),
        ("a: 1\n'a': 3", "line 2: 'a' stands here a second time"),
        ("1: a", "here: the key 1 is not text; put it in quotes"),
        ("[1]: a", "the key \\[1\\] is not text"),
        ("a: !!python/object/apply:os.system [echo]", "tag 'python/object/apply:os.system'"),
        ("!!set {a, b}", "tag 'set' is not taken"),
        ("!thing 3", "tag '!thing' is not taken"),
        ("!!int word", "here: invalid literal"),
        ("!!map [1]", "tag 'map' is not taken"),
        ("[" * 100 + "]" * 100, "nested deeper than 16 levels"),
        ("[" + "1," * 30_000 + "]", "more than 20000 values"),
        ("9" * 30, "the number is too large"),
        ("9" * 5000, "Exceeds the limit"),
        ("0x" + "f" * 5000, "the number is too large"),
        ('"\\ud800"', "half a surrogate pair"),
        ('"\\UFFFFFFFF"', "here: .*"),
        ("a: b: c", "mapping values are not allowed here"),
        ("a\n---\nb", "line 2: but found another document"),
        ("\x00", "here: unacceptable character"),
    ],
)
def test_anything_else_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        read(text)


@given(value=trees)
def test_what_is_written_reads_back(value: Any) -> None:
    found = read_yaml(write_yaml(value), source="here")
    assert found == value
    assert repr(found) == repr(value)  # 1, 1.0 and True are equal, and not the same


def test_a_shared_list_is_written_out_twice() -> None:
    shared = [1, 2]
    assert read(write_yaml({"a": shared, "b": shared})) == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("value", [object(), {1, 2}, datetime.date(2024, 1, 1), b"bytes", 1j])
def test_what_is_not_plain_data_is_not_written(value: Any) -> None:
    with pytest.raises(SettingError, match=f"is of type {type(value).__name__}"):
        write_yaml([value])
