"""What a source is read as, and every text that is refused."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import tiny_tokenizer

from birdbone.errors import DataError, SettingError
from birdbone.texts.addresses import TextAddress
from birdbone.texts.sources import MINIMUM_CHARACTERS, read_corpus, read_raw

PARAGRAPH = "A bird's bone is hollow, and struts stand where the load is carried. " * 15


def test_pydoc_is_the_default() -> None:
    corpus = read_corpus()
    assert corpus == read_corpus("pydoc")
    assert corpus.name.startswith("pydoc (CPython 3.")
    assert len(corpus.documents) > 50
    assert any('The "assert" statement' in document for document in corpus.documents)
    assert read_corpus("pydoc?rows=5").documents == corpus.documents[:5]


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
    digests = {read_raw(TextAddress(str(path))).digest for path in (unix, windows)}
    assert len(digests) == 1


def test_a_folder_is_named_without_those_it_lies_in(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(f"{name} {PARAGRAPH}")
    corpus = read_corpus(f"{tmp_path}/")
    assert corpus.name == tmp_path.name
    assert [document.split()[0] for document in corpus.documents] == ["a.txt", "b.txt"]


def test_a_dataset_in_a_folder_is_named_without_those_it_lies_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Rows(list[Any]):
        column_names = None

    rows = Rows({"text": f"{number} {PARAGRAPH}"} for number in range(3))
    module = SimpleNamespace(load_dataset=lambda *given, **more: rows)
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert read_corpus(f"hf:{tmp_path}::test").name == f"{tmp_path.name}::test"
    assert read_corpus("hf:org/name:raw").name == "org/name:raw"


def test_conversations_are_written_by_the_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"prompt": "Why?", "response": PARAGRAPH}))
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    documents = read_corpus(str(path), tokenizer).documents
    assert documents == (f"user: Why?\nassistant: {PARAGRAPH}\n",)
    with pytest.raises(
        DataError, match=r"chat\.jsonl', line 1 is a conversation.*no chat template"
    ):
        read_corpus(str(path), tiny_tokenizer())


def test_a_source_is_read_again_only_after_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(PARAGRAPH)
    address = TextAddress(str(path))
    first = read_raw(address)
    assert read_raw(address) is first
    path.write_text(PARAGRAPH.upper() + "!")
    assert read_raw(address).digest != first.digest


def test_a_wrong_option_is_refused_before_anything_is_read() -> None:
    with pytest.raises(SettingError, match="no option 'colum'"):
        read_corpus("nowhere.jsonl?colum=text")


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
