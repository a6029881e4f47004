"""Read text from where the user says it is: built in, files, or a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import DataError
from .addresses import HUB, TextAddress
from .builtin import BUILTIN
from .corpus import Corpus, RawText
from .files import documents_in, find_files
from .hub_datasets import read_dataset
from .recent import remembered

MINIMUM_CHARACTERS = 1000
"""A source with fewer characters than this is refused: no part of it would fill a window."""


def read_corpus(source: str = "pydoc", tokenizer: Any | None = None) -> Corpus:
    """Read the documents a source stands for, as text.

    `pydoc` is the language reference every Python carries, one topic a document; `stdlib` the
    Python source of its library, one module a document; `readmes` the descriptions of the packages
    birdbone requires. `hf:DATASET[:CONFIG[:SPLIT]]` is a dataset; the split is `train` when not
    said. Anything else is a file, a folder or a glob: .txt, .md, .jsonl, .json and .parquet, also
    ending in .gz, .bz2, .xz or .zst. Each file of text is a document, one alone is divided into
    documents (see `documents.divide`), and each row of a table is one: its column `text`, or a
    conversation in `messages`, `conversations`, or `prompt` and `response`.

    Args:
        source: as `addresses.TextAddress.parse` reads it; a weight is not used here.
        tokenizer: whose chat template makes text of conversations.

    Raises:
        DataError: nothing is there, or it is empty, not UTF-8, binary, without text, or under 1000
            characters; or a conversation cannot be rendered.
        SettingError: an option of the source is unknown.
        MissingExtraError: a package that reads the source is not installed.
    """
    return read_raw(TextAddress.parse(source)).rendered(tokenizer)


def read_raw(address: TextAddress) -> RawText:
    """Read a source as it is, or remember it where it has not changed since it was read lately.

    Raises:
        DataError, MissingExtraError: as `read_corpus` does.
    """
    return remembered(address.spelled, _stamp(address), lambda: _read(address))


def _stamp(address: TextAddress) -> tuple[object, ...]:
    """What changes where the source does: of files their names, sizes and times."""
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
        return RawText(address.place.removeprefix(HUB), read_dataset(address))
    documents = documents_in(find_files(address.place), address.column, address.rows)
    return RawText(_short_name(Path(address.place).expanduser()), documents)


def _short_name(path: Path) -> str:
    """Without the folder it lies in, so that no report says where the text lay."""
    return path.resolve().name if path.is_dir() else path.name
