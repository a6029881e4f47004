"""Read text from datasets of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from ..errors import DataError, MissingExtraError
from .addresses import HUB, TextAddress
from .columns import Document, document_of, used_columns
from .conversations import Conversation
from .documents import divide, is_heading


def read_dataset(address: TextAddress) -> tuple[Document, ...]:
    """Read the documents of `hf:DATASET[:CONFIG[:SPLIT]]`; the default split is `train`.

    Each row is a document, except that rows that are lines of WikiText articles are joined.

    Raises:
        DataError: it cannot be loaded, or has no text column.
        MissingExtraError: `datasets` is not installed.
    """
    path, config, part = (*address.place.removeprefix(HUB).split(":", 2), "", "")[:3]
    if not path:
        raise DataError(f"'{address.place}' names no dataset; write hf:DATASET[:CONFIG[:SPLIT]]")
    where = f"dataset '{path}'"
    loaded = _load(path, config or None, part or "train", address.stream)
    rows: Iterable[Any] = islice(_chosen(loaded, address.column, where), address.rows)
    try:
        named = [(f"{where}, row {number}", row) for number, row in enumerate(rows, 1)]
    except OSError as error:
        raise DataError(f"{where} cannot be read to its end: {error}; try again") from error
    return _joined([document_of(row, address.column, place) for place, row in named])


def _load(path: str, config: str | None, part: str, stream: bool) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            f"text 'hf:{path}' needs the package datasets; install birdbone[datasets], "
            "or give the path of a text file"
        ) from error
    try:
        return datasets.load_dataset(path, config, split=part, streaming=stream)
    except (OSError, ValueError) as error:
        raise DataError(
            f"dataset '{path}' (configuration {config or 'default'}, split {part}) "
            f"cannot be loaded: {error}"
        ) from error


def _chosen(loaded: Any, column: str | None, where: str) -> Any:
    """The rows with only their text columns; a stream may not know its columns in advance."""
    names: Sequence[str] | None = loaded.column_names
    if names is None:
        return loaded
    return loaded.select_columns(list(used_columns(names, column, where)))


def _joined(documents: list[Document | None]) -> tuple[Document, ...]:
    """The rows that are not blank, or the articles if rows are lines of articles."""
    lines = [each or "" for each in documents if not isinstance(each, Conversation)]
    if len(lines) == len(documents) and any(map(is_heading, lines)):
        return divide("".join(line if line.endswith("\n") else line + "\n" for line in lines))
    return tuple(each for each in documents if each is not None)
