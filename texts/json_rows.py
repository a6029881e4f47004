"""Read rows of .jsonl and .json files, with the line or index of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError
from .compression import opened

_BOM = b"\xef\xbb\xbf"


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each non-blank line as JSON, with its file and line number.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8 JSON.
    """
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            where = f"file '{path}', line {number}"
            content = line.removeprefix(_BOM) if number == 1 else line
            if content.strip():
                yield where, _parsed(content, where)


def json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a .json file: a list, the only list of an object, or JSON lines.

    Raises:
        DataError: the file cannot be read, or is not UTF-8 JSON.
    """
    with opened(path) as file:
        content = file.read().removeprefix(_BOM)
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise DataError(f"file '{path}' is not JSON ({error}); correct it") from error
        yield from json_lines(path)
        return
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"file '{path}' is not JSON ({error}); correct it") from error
    for number, row in enumerate(_rows_of(value), 1):
        yield f"file '{path}', row {number}", row


def _parsed(content: bytes, where: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); correct it or leave it out") from error


def _rows_of(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    lists = (
        [each for each in value.values() if isinstance(each, list)] if _is_wrapper(value) else []
    )
    return lists[0] if lists else [value]


def _is_wrapper(value: Any) -> bool:
    """Whether an object contains the rows, as in {"data": […]}, and is not a row itself."""
    if not isinstance(value, dict):
        return False
    lists = [each for each in value.values() if isinstance(each, list)]
    rows = len(lists) == 1 and all(isinstance(each, dict) for each in lists[0])
    return rows and not any("role" in each or "from" in each for each in lists[0])
