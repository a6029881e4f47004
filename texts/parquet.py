"""Read rows of .parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import DataError, MissingExtraError
from .columns import used_columns
from .compression import COMPRESSED, opened

_BATCH = 256  # rows decoded at a time


def parquet_rows(path: Path, column: str | None) -> Iterator[tuple[str, Any]]:
    """Yield each row as a mapping of its text columns, with its file and index.

    Raises:
        DataError: the file is damaged, or has no text column.
        MissingExtraError: pyarrow is not installed.
    """
    pyarrow, parquet = _pyarrow(path)
    try:
        file = parquet.ParquetFile(_content(path, pyarrow))
        names = list(file.schema_arrow.names)
        columns = list(used_columns(names, column, f"file '{path}'"))
        number = 0
        for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"file '{path}', row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"file '{path}' is no readable Parquet file: {error}") from error


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError(
            f"file '{path}' needs the package pyarrow; install birdbone[parquet], or save its text "
            f"as .jsonl"
        ) from error


def _content(path: Path, pyarrow: Any) -> Any:
    if path.suffix.lower() not in COMPRESSED:
        return path
    with opened(path) as file:
        return pyarrow.BufferReader(file.read())
