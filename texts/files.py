"""Text files and tables: resolve a path or glob, and read the documents."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DataError
from .columns import Document, document_of
from .compression import COMPRESSED, opened
from .documents import divide
from .json_rows import json_lines, json_rows
from .parquet import parquet_rows

SUFFIXES = (".txt", ".md", ".jsonl", ".json", ".parquet")
"""Suffixes a folder is searched for, also followed by that of a compression."""

_TABLES = SUFFIXES[2:]


def find_files(place: str) -> list[Path]:
    """Return the files of a path, folder or glob, sorted; hidden files in folders are skipped.

    Raises:
        DataError: there are none.
    """
    path = Path(place).expanduser()
    if place and path.is_file():
        return [path]
    if place and path.is_dir():
        found = [each for each in path.rglob("*") if _is_text(each, path)]
        if not found:
            raise DataError(
                f"folder '{place}' holds no {', '.join(SUFFIXES)} file; put the text in such files"
            )
        return sorted(found, key=Path.as_posix)
    if glob.has_magic(place):
        names = glob.glob(str(path), recursive=True)
        if found := sorted((Path(name) for name in names), key=Path.as_posix):
            return [each for each in found if each.is_file()]
        raise DataError(f"no file matches '{place}'; check the pattern and the folder it starts in")
    raise DataError(
        f"text '{place}' is neither a file nor a folder here; give the path of a text file, a "
        f"folder or a glob, one of the built-in texts, or 'hf:DATASET:CONFIG:SPLIT'"
    )


def documents_in(paths: list[Path], column: str | None, rows: int | None) -> tuple[Document, ...]:
    """Read the documents of files, at most so many in all.

    One of several text files is one document; a single one is split (see `documents.divide`).
    Each row of a table is one document.

    Raises:
        DataError: a file cannot be read, or a table has no text.
        MissingExtraError: a package that reads one is not installed.
    """
    found = (each for path in paths for each in _documents(path, column, len(paths) == 1))
    return tuple(islice(found, rows))


def _is_text(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and kind_of(path) in SUFFIXES and path.is_file()


def kind_of(path: Path) -> str:
    """Return the suffix of a file in lower case, without that of its compression."""
    name = Path(path.stem) if path.suffix.lower() in COMPRESSED else path
    return name.suffix.lower()


def _documents(path: Path, column: str | None, alone: bool) -> Iterator[Document]:
    kind = kind_of(path)
    if kind not in _TABLES:
        text = read_text(path)
        if not text.strip() and not alone:
            warnings.warn(f"file '{path}' is blank and was left out of the text", stacklevel=2)
        yield from divide(text) if alone else filter(str.strip, [text])
        return
    for where, row in _rows(path, kind, column):
        document = document_of(row, column, where)
        if document is not None:
            yield document


def _rows(path: Path, kind: str, column: str | None) -> Iterator[tuple[str, Any]]:
    if kind == ".parquet":
        return parquet_rows(path, column)
    return json_lines(path) if kind == ".jsonl" else json_rows(path)


def read_text(path: Path) -> str:
    """Read a text file, with line ends converted to `\\n`.

    Raises:
        DataError: it cannot be read, is binary, or is not UTF-8.
    """
    with opened(path) as file:
        content = file.read()
    if b"\0" in content:
        raise DataError(f"file '{path}' is binary (it holds NUL bytes); give plain UTF-8 text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"file '{path}' is not UTF-8 (byte {error.start}); save it as UTF-8 text"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
