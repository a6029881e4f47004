"""Read the documents of a source: built-in text, files, or a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import DataError
from .addresses import HUB, TextAddress
from .builtin import BUILTIN
from .corpus import Corpus, RawText
from .files import documents_in, find_files
from .hub_datasets import read_dataset
from .source_cache import remembered

MINIMUM_CHARACTERS = 1000
"""Minimum characters of a source; with fewer, its parts would not fill a window."""


def read_corpus(source: str = "pydoc", tokenizer: Any | None = None) -> Corpus:
    """Read the documents of a source as text.

    `pydoc` is the Python language reference, one document per topic; `stdlib` is the source of the
    standard library, one document per module; `readmes` the prose of the READMEs of the packages
    birdbone requires. `hf:DATASET[:CONFIG[:SPLIT]]` is a dataset; the default split is `train`.
    Anything else is a file, a folder or a glob: .txt, .md, .jsonl, .json and .parquet, also
    ending in .gz, .bz2, .xz or .zst. Each text file is a document, except that a single one is
    split (see `documents.divide`); each row of a table is a document: its column `text`, or a
    conversation in `messages`, `conversations`, or `prompt` and `response`.

    Args:
        source: in the syntax of `addresses`; a weight is ignored.
        tokenizer: renders conversations with its chat template.

    Raises:
        DataError: nothing is there, or it is empty, not UTF-8, binary, without text, or under 1000
            characters; or a conversation cannot be rendered.
        SettingError: an option of the source is unknown.
        MissingExtraError: a package that reads the source is not installed.
    """
    return read_raw(TextAddress.parse(source)).rendered(tokenizer)


def read_raw(address: TextAddress) -> RawText:
    """Read a source without rendering conversations; cached while its files are unchanged.

    Raises:
        DataError, MissingExtraError: as `read_corpus` does.
    """
    return remembered(address.spelled, _stamp(address), lambda: _read(address))


def _stamp(address: TextAddress) -> tuple[object, ...]:
    """Names, sizes and times of the files, which change whenever the source does."""
    if address.place in BUILTIN or address.is_dataset:
        return ()
    stats = ((path, path.stat()) for path in find_files(address.place))
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)


def _read(address: TextAddress) -> RawText:
    raw = _raw(address)
    if raw.num_characters < MINIMUM_CHARACTERS:
        raise DataError(
            f"text '{address.spelled}' has {raw.num_characters} characters in "
            f"{len(raw.documents)} documents; at least {MINIMUM_CHARACTERS} are needed: give a "
            f"longer text"
        )
    return raw


def _raw(address: TextAddress) -> RawText:
    if address.place in BUILTIN:
        raw = BUILTIN[address.place]()
        return RawText(raw.name, raw.documents[: address.rows])
    if address.is_dataset:
        return RawText(_dataset_name(address.place.removeprefix(HUB)), read_dataset(address))
    documents = documents_in(find_files(address.place), address.column, address.rows)
    return RawText(_short_name(Path(address.place).expanduser()), documents)


def _dataset_name(place: str) -> str:
    """The dataset, configuration and split; of a local folder its name."""
    path, colon, rest = place.partition(":")
    folder = Path(path).expanduser()
    return f"{_short_name(folder) if folder.is_dir() else path}{colon}{rest}"


def _short_name(path: Path) -> str:
    """Without parent folders, so that reports do not reveal local paths."""
    return path.resolve().name if path.is_dir() else path.name
