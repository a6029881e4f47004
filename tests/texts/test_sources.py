"""Every kind of source, and every text that is refused.

The `hf:` source runs against a stand-in `datasets` module, since the package is an extra.
"""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from birdbone.errors import DataError, MissingExtraError
from birdbone.texts.sources import MINIMUM_CHARACTERS, read_corpus

PARAGRAPH = "A bird's bone is hollow, and struts stand where the load is carried. " * 15


class Rows:
    """As much of a `datasets.Dataset` as is read."""

    def __init__(self, **columns: list[str]) -> None:
        self.columns = columns
        self.column_names = list(columns)

    def __getitem__(self, column: str) -> list[str]:
        return self.columns[column]


def install_datasets(monkeypatch: pytest.MonkeyPatch, rows: Rows | Exception) -> list[tuple]:
    """Put a `datasets` module in place that answers with these rows, and note what is asked."""
    asked: list[tuple] = []

    def load_dataset(path: str, config: str | None, *, split: str) -> Rows:
        asked.append((path, config, split))
        if isinstance(rows, Exception):
            raise rows
        return rows

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_pydoc_is_the_default_and_names_its_version() -> None:
    corpus = read_corpus()
    assert corpus == read_corpus("pydoc")
    assert corpus.name == f"pydoc (CPython {sys.version_info.major}.{sys.version_info.minor})"
    assert len(corpus.documents) > 50
    assert any('The "assert" statement' in document for document in corpus.documents)


def test_a_file_is_named_without_its_folder_and_divided(tmp_path: Path) -> None:
    path = tmp_path / "bones.txt"
    path.write_text("".join(f" = {title} = \n{PARAGRAPH}\n" for title in "ABC"))
    corpus = read_corpus(str(path))
    assert corpus.name == "bones.txt"
    assert [document[:6] for document in corpus.documents] == [" = A =", " = B =", " = C ="]


def test_line_ends_and_byte_order_mark_do_not_change_the_text(tmp_path: Path) -> None:
    unix, windows = tmp_path / "unix.txt", tmp_path / "windows.txt"
    unix.write_bytes(f"{PARAGRAPH}\n\n{PARAGRAPH}\n".encode())
    windows.write_bytes(f"{PARAGRAPH}\r\n\r\n{PARAGRAPH}\r\n".encode("utf-8-sig"))
    assert read_corpus(str(unix)).digest == read_corpus(str(windows)).digest


def test_a_folder_gives_its_texts_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.MD", "deep/c.md", "ignored.py"):
        (tmp_path / name).write_text(f"{name} {PARAGRAPH}")
    corpus = read_corpus(str(tmp_path))
    assert corpus.name == tmp_path.name
    assert [document.split()[0] for document in corpus.documents] == ["a.MD", "b.txt", "deep/c.md"]


def test_a_lone_file_in_a_folder_is_divided_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "only.txt").write_text("\n\n".join([PARAGRAPH] * 6))
    corpus = read_corpus(str(tmp_path))
    assert corpus.documents == read_corpus(str(tmp_path / "only.txt")).documents
    assert len(corpus.documents) == 3


def test_a_blank_file_in_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PARAGRAPH)
    (tmp_path / "b.txt").write_text(PARAGRAPH)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.warns(UserWarning, match=r"empty\.txt' is blank"):
        assert len(read_corpus(str(tmp_path)).documents) == 2


def test_a_missing_path_says_what_may_be_given() -> None:
    with pytest.raises(DataError, match=r"'nowhere\.txt' is neither a file nor a folder.*pydoc"):
        read_corpus("nowhere.txt")


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(DataError, match="text '' is neither"):
        read_corpus("")


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(PARAGRAPH)
    with pytest.raises(DataError, match=r"holds no \.txt or \.md file"):
        read_corpus(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 characters in 0 documents"),
        (b" \n" * MINIMUM_CHARACTERS, "0 characters in 0 documents"),
        (b"short", f"5 characters.*at least {MINIMUM_CHARACTERS}"),
        (b"GGUF\0\0" * 500, "is binary"),
        ("é".encode("latin-1") * 2000, r"not UTF-8 \(byte 0\)"),
    ],
)
def test_a_text_that_cannot_serve_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_corpus(str(path))


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("org/name", ("org/name", None, "train")),
        ("org/name:raw", ("org/name", "raw", "train")),
        ("org/name:raw:train[:100]", ("org/name", "raw", "train[:100]")),
        ("org/name::test", ("org/name", None, "test")),
    ],
)
def test_a_dataset_address_is_read(
    monkeypatch: pytest.MonkeyPatch, address: str, asked: tuple
) -> None:
    calls = install_datasets(monkeypatch, Rows(text=[PARAGRAPH, " ", PARAGRAPH]))
    corpus = read_corpus(f"hf:{address}")
    assert calls == [asked]
    assert (corpus.name, corpus.documents) == (address, (PARAGRAPH, PARAGRAPH))


def test_rows_that_are_lines_of_articles_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for title in "ABC" for line in (f" = {title} = \n", "", PARAGRAPH)]
    install_datasets(monkeypatch, Rows(text=lines))
    assert len(read_corpus("hf:wikitext").documents) == 3


def test_a_dataset_without_text_names_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    install_datasets(monkeypatch, Rows(question=["?"], answer=["!"]))
    with pytest.raises(DataError, match=r"no column 'text', only \['answer', 'question'\]"):
        read_corpus("hf:quiz")


def test_a_dataset_that_does_not_load_names_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    install_datasets(monkeypatch, FileNotFoundError("no such dataset"))
    with pytest.raises(DataError, match=r"'gone' \(configuration default, split train\).*no such"):
        read_corpus("hf:gone")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: ModuleType | None = None
    monkeypatch.setitem(sys.modules, "datasets", missing)
    with pytest.raises(MissingExtraError, match=r"birdbone\[datasets\]"):
        read_corpus("hf:wikitext")


def test_a_dataset_without_a_name_is_refused() -> None:
    with pytest.raises(DataError, match="names no dataset"):
        read_corpus("hf:")
