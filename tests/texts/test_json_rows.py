"""JSON in every layout gives its rows, and what is none names its line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from birdbone.errors import DataError
from birdbone.texts.json_rows import json_lines, json_rows

ROWS = [{"text": "a"}, {"text": "b"}]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_lines_are_read_with_their_numbers_and_blank_ones_are_not(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"text": "a"}\r\n\n{"text": "b"}'
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(content))
    assert list(json_lines(path)) == [
        (f"file '{path}', line 1", ROWS[0]),
        (f"file '{path}', line 3", ROWS[1]),
    ]


@pytest.mark.parametrize(
    ("line", "reason"), [(b"{'text': 1}", "Expecting property name"), (b'"\xff"', "can't decode")]
)
def test_a_line_that_is_not_json_is_named(tmp_path: Path, line: bytes, reason: str) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "a"}\n' + line + b"\n")
    with pytest.raises(DataError, match=rf"a\.jsonl', line 2 is not JSON \(.*{reason}"):
        list(json_lines(path))


@pytest.mark.parametrize(
    "value",
    [
        json.dumps(ROWS),
        json.dumps({"version": 1, "data": ROWS}),
        "\n".join(map(json.dumps, ROWS)),
    ],
)
def test_a_json_file_gives_its_rows(tmp_path: Path, value: str) -> None:
    path = write(tmp_path / "a.json", value.encode())
    assert [row for _, row in json_rows(path)] == ROWS


@pytest.mark.parametrize("row", [ROWS[0], {"messages": [{"role": "user", "content": "a"}]}])
def test_an_object_may_be_the_only_row(tmp_path: Path, row: Any) -> None:
    path = write(tmp_path / "a.json", json.dumps(row).encode())
    assert [found for _, found in json_rows(path)] == [row]


def test_a_json_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json' is not JSON \(Expecting value"):
        list(json_rows(write(tmp_path / "a.json", b"text")))
    with pytest.raises(DataError, match=r"b\.json' is not JSON"):
        list(json_rows(write(tmp_path / "b.json", b"[" * 100_000)))
