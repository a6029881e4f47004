"""Datasets of the hub, read through a stand-in for `datasets`, which is an extra."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from birdbone.errors import DataError, MissingExtraError
from birdbone.texts.addresses import TextAddress
from birdbone.texts.hub_datasets import read_dataset

PARAGRAPH = "A bird's bone is hollow, and struts stand where the load is carried. " * 15


class Rows:
    """As much of a `datasets.Dataset`, or a stream that does not know its columns, as is read."""

    def __init__(self, rows: list[dict[str, Any]], *, known: bool = True) -> None:
        self.rows = rows
        self.column_names = list(rows[0]) if known else None
        self.taken = 0

    def select_columns(self, names: list[str]) -> "Rows":
        return Rows([{name: row[name] for name in names} for row in self.rows])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.rows:
            self.taken += 1
            yield row


def install_datasets(monkeypatch: pytest.MonkeyPatch, rows: Rows | Exception) -> list[Any]:
    """Put a `datasets` module in place that answers with these rows, and note what is asked."""
    asked: list[Any] = []

    def load_dataset(path: str, config: str | None, *, split: str, streaming: bool) -> Rows:
        asked.append((path, config, split, streaming))
        if isinstance(rows, Exception):
            raise rows
        return rows

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


def read(address: str) -> tuple[Any, ...]:
    return read_dataset(TextAddress.parse(address))


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("hf:org/name", ("org/name", None, "train", False)),
        ("hf:org/name:raw", ("org/name", "raw", "train", False)),
        ("hf:org/name:raw:train[:100]", ("org/name", "raw", "train[:100]", False)),
        ("hf:org/name::test?stream=yes", ("org/name", None, "test", True)),
    ],
)
def test_an_address_says_what_is_loaded(
    monkeypatch: pytest.MonkeyPatch, address: str, asked: tuple[Any, ...]
) -> None:
    rows = [{"text": PARAGRAPH, "id": 1}, {"text": " ", "id": 2}, {"text": "more", "id": 3}]
    calls = install_datasets(monkeypatch, Rows(rows))
    assert read(address) == (PARAGRAPH, "more")
    assert calls == [asked]


def test_a_stream_is_read_no_further_than_the_rows_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Rows([{"body": str(number)} for number in range(100)], known=False)
    install_datasets(monkeypatch, stream)
    assert read("hf:org/name?column=body&rows=3&stream=yes") == ("0", "1", "2")
    assert stream.taken == 3


def test_a_conversation_says_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = {"messages": [{"role": "user", "content": "Why?"}]}
    install_datasets(monkeypatch, Rows([talk, {"messages": None}, talk]))
    assert [each.where for each in read("hf:chat")] == [
        "dataset 'chat', row 1",
        "dataset 'chat', row 3",
    ]


def test_rows_that_are_lines_of_articles_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for title in "ABC" for line in (f" = {title} = \n", "", PARAGRAPH)]
    install_datasets(monkeypatch, Rows([{"text": line} for line in lines]))
    documents = read("hf:wikitext")
    assert len(documents) == 3
    assert documents[0] == f" = A = \n\n{PARAGRAPH}\n"


def test_a_dataset_without_text_lists_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    install_datasets(monkeypatch, Rows([{"q": "?", "a": "!"}]))
    with pytest.raises(DataError, match=r"dataset 'quiz' has no column with text.*'a', 'q'"):
        read("hf:quiz")
    with pytest.raises(DataError, match="dataset 'quiz' has no column 'body'; its columns are 'a'"):
        read("hf:quiz?column=body")


def test_a_dataset_that_does_not_load_names_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    install_datasets(monkeypatch, FileNotFoundError("no such dataset"))
    with pytest.raises(DataError, match=r"'gone' \(configuration default, split train\).*no such"):
        read("hf:gone")


def test_a_stream_that_breaks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Rows):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield self.rows[0]
            raise ConnectionError("the line is dead")

    install_datasets(monkeypatch, Broken([{"text": "a"}], known=False))
    with pytest.raises(DataError, match="'org/name' cannot be read to its end: the line is dead"):
        read("hf:org/name?stream=yes")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"birdbone\[datasets\]"):
        read("hf:wikitext")


def test_a_dataset_without_a_name_is_refused() -> None:
    with pytest.raises(DataError, match="names no dataset"):
        read("hf:")
