"""Shared options, and how a command prints its result."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from functools import cache

import pytest
from command_line import birdbone, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.text import Text

from birdbone.commands.options import answer, one_or_more, print_json

WITH_OPTION = {
    "--data": ("run", "compress", "quantize", "fit", "sensitivity"),
    "--elsewhere": ("run", "compress", "quantize", "fit", "export"),
    "--device": ("run", "compress", "quantize", "fit", "export", "sensitivity", "prove", "bench"),
    "--dry-run": ("run", "compress", "quantize", "fit", "sensitivity", "gc"),
    "--set": ("run", "compress", "quantize", "fit"),
    "--threads": ("run", "compress", "quantize", "fit", "sensitivity"),
}


@cache
def help_of(command: str) -> str:
    return birdbone(command, "--help").stdout.replace("│", " ")


@pytest.mark.parametrize("option", WITH_OPTION)
def test_one_text_for_one_option(option: str) -> None:
    """The same words wherever it is offered; gc deletes, so that its dry run has its own."""
    texts = set()
    for command in WITH_OPTION[option]:
        lines = [line for line in help_of(command).splitlines() if f" {option} " in f"{line} "]
        assert len(lines) == 1, command
        if command != "gc":
            texts.add(lines[0].split(option)[1].strip().split("  ")[-1].strip()[:12])
    assert len(texts) <= 1, texts


@pytest.mark.parametrize(
    ("values", "found"),
    [(None, None), ([], None), (["a"], "a"), (["a", "b"], ("a", "b")), (["a", "a"], ("a", "a"))],
)
def test_one_or_more(values: list[str] | None, found: object) -> None:
    assert one_or_more(values) == found


@settings(max_examples=30)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inside: st.lists(inside, max_size=3)
        | st.dictionaries(st.text(max_size=3), inside, max_size=3),
        max_leaves=6,
    )
)
def test_a_document_reads_back(document: object) -> None:
    with redirect_stdout(io.StringIO()) as printed:
        print_json({"found": document})
    assert json.loads(printed.getvalue()) == {"found": document}


def test_letters_stay_letters(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": "Öl – 3 × 4"})
    assert capsys.readouterr().out == '{\n  "text": "Öl – 3 × 4"\n}\n'


def test_the_report_is_made_only_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> Text:
        raise AssertionError("a report is asked for")

    answer({"a": 1}, fails, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    answer({"a": 1}, lambda: Text("one"), as_json=False)
    assert capsys.readouterr().out == "one\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("compress", "m", "--out", "o", "--preset", "slow"), "'slow' is not one of 'fast'"),
        (("quantize", "m", "--out", "o", "--threads", "0"), "Invalid value for '--threads'"),
        (("run", "fit", "--log", "xml"), "'xml' is not one of 'json', 'console'"),
        (("run", "fit", "--activations", "disk"), "'disk' is not one of 'auto', 'host', 'device'"),
        (("compress", "m"), "Missing option '--out'"),
    ],
)
def test_wrong_values_end_with_2(args: tuple[str, ...], words: str) -> None:
    assert words in refused(*args, code=2)
