"""Read a corpus from where the user says it is: pydoc, a file, a folder or a dataset."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import DataError, MissingExtraError
from .builtin import BUILTIN
from .corpus import Corpus
from .documents import divide, is_heading

MINIMUM_CHARACTERS = 1000
"""A corpus with fewer characters than this is refused: no part of it would fill a window."""

SUFFIXES = (".txt", ".md")
"""The file names a folder is searched for."""


def read_corpus(source: str = "pydoc") -> Corpus:
    """Read the documents a source stands for.

    `pydoc` is the language reference every Python carries, one topic a document; `stdlib` the
    Python source of its library, one module a document; `readmes` the descriptions of the packages
    birdbone requires. `hf:DATASET`, `hf:DATASET:CONFIG` or `hf:DATASET:CONFIG:SPLIT` is a dataset
    with a `text` column; the split is `train` when not said. Anything else is a path: of a UTF-8
    file, or of a folder whose .txt and .md files, also in its subfolders, are one document each in
    sorted order. A lone file is divided at its WikiText article headings, or else by paragraphs
    (see `documents.divide`).

    Raises:
        DataError: nothing is there, or it is empty, not UTF-8, binary, or under 1000 characters.
        MissingExtraError: the source is a dataset and `datasets` is not installed.
    """
    corpus = _reader(source)()
    length = sum(map(len, corpus.documents))
    if length < MINIMUM_CHARACTERS:
        raise DataError(
            f"text '{source}' has {length} characters in {len(corpus.documents)} documents; "
            f"at least {MINIMUM_CHARACTERS} are needed: give a longer text"
        )
    return corpus


def _reader(source: str) -> Callable[[], Corpus]:
    if source in BUILTIN:
        return BUILTIN[source]
    if source.startswith("hf:"):
        return lambda: _read_dataset(source.removeprefix("hf:"))
    path = Path(source)
    if source and path.is_dir():
        return lambda: _read_folder(path)
    if source and path.is_file():
        return lambda: Corpus(path.name, divide(_read_text(path)))
    raise DataError(
        f"text '{source}' is neither a file nor a folder here; give the path of a text file or "
        f"folder, one of {', '.join(BUILTIN)}, or 'hf:DATASET:CONFIG:SPLIT'"
    )


def _read_folder(folder: Path) -> Corpus:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    paths = sorted((path for path in found if path.is_file()), key=Path.as_posix)
    if not paths:
        raise DataError(
            f"folder '{folder}' holds no {' or '.join(SUFFIXES)} file; put the text in such files"
        )
    texts = {path: _read_text(path) for path in paths}
    for path, text in texts.items():
        if not text.strip():
            warnings.warn(f"file '{path}' is blank and was left out of the text", stacklevel=2)
    documents = tuple(text for text in texts.values() if text.strip())
    if len(paths) == 1:
        documents = divide("".join(documents))
    return Corpus(folder.resolve().name, documents)


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"file '{path}' cannot be read: {error.strerror}") from error
    if b"\0" in content:
        raise DataError(f"file '{path}' is binary (it holds NUL bytes); give plain UTF-8 text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"file '{path}' is not UTF-8 (byte {error.start}); save it as UTF-8 text"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_dataset(address: str) -> Corpus:
    path, config, part = (*address.split(":", 2), "", "")[:3]
    if not path:
        raise DataError(f"'hf:{address}' names no dataset; write hf:DATASET[:CONFIG[:SPLIT]]")
    rows = _load_dataset(path, config or None, part or "train")
    if "text" not in rows.column_names:
        raise DataError(
            f"dataset '{path}' has no column 'text', only {sorted(rows.column_names)}; "
            "save its text to a file and give that"
        )
    return Corpus(address, _join_rows(rows["text"]))


def _load_dataset(path: str, config: str | None, part: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            f"text 'hf:{path}' needs the package datasets; install birdbone[datasets], "
            "or give the path of a text file"
        ) from error
    try:
        return datasets.load_dataset(path, config, split=part)
    except (OSError, ValueError) as error:
        raise DataError(
            f"dataset '{path}' (configuration {config or 'default'}, split {part}) "
            f"cannot be loaded: {error}"
        ) from error


def _join_rows(rows: Iterable[str]) -> tuple[str, ...]:
    """Take each row as a document, or divide their sum where rows are the lines of articles."""
    texts = list(rows)
    if any(map(is_heading, texts)):
        return divide("".join(text if text.endswith("\n") else text + "\n" for text in texts))
    return tuple(text for text in texts if text.strip())
