"""Choose the columns of a table that hold text, and convert rows to documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DataError
from .conversations import Conversation, from_messages, from_turns

Document = str | Conversation
"""Text, or a conversation to be rendered by a chat template."""

_MESSAGES = ("messages", "conversations", "conversation")
_TURNS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("question", "answer"),
)
_BESIDE_TURNS = ("system", "input")
_TEXT = ("text", "content")
_KNOWN = (
    "'text', 'messages', 'conversations', or 'prompt' and 'response'; say which with ?column=NAME"
)


def used_columns(names: Sequence[str], column: str | None, where: str) -> tuple[str, ...]:
    """Return the columns that documents are made from.

    The column the user named; otherwise messages, a prompt with its response, or text.

    Raises:
        DataError: there is no such column; the message lists the columns.
    """
    if column is not None:
        if column not in names:
            raise DataError(f"{where} has no column '{column}'; its columns are {_listed(names)}")
        return (column,)
    for choice in (*((name,) for name in _MESSAGES), *_TURNS, *((name,) for name in _TEXT)):
        if all(name in names for name in choice):
            beside = _BESIDE_TURNS if choice in _TURNS else _BESIDE_TURNS[:1]
            more = () if choice[0] in _TEXT else tuple(n for n in beside if n in names)
            return (*choice, *more)
    raise DataError(
        f"{where} has no column with text: its columns are {_listed(names)}; expected is {_KNOWN}"
    )


def document_of(row: Any, column: str | None, where: str) -> Document | None:
    """Convert one row of a table to a document; None for a blank row.

    Raises:
        DataError: the row has no text column, or the column does not hold text.
    """
    if isinstance(row, str) and column is None:
        return _nonblank(row)
    if not isinstance(row, Mapping):
        raise DataError(f"{where} is neither an object nor text but {type(row).__name__}")
    first, *rest = used_columns([str(name) for name in row], column, where)
    if rest and rest[0] not in _BESIDE_TURNS:
        return _turns(row, first, rest[0], where)
    value = row[first]
    if value is None:
        return None
    if isinstance(value, str):
        return _nonblank(value)
    if first in _TEXT or not isinstance(value, Sequence):
        raise DataError(f"{where}: column '{first}' holds {type(value).__name__}, not text")
    if not value:
        return None
    system = row.get("system") if rest else None
    before = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
    return from_messages([*before, *value], where)


def _turns(row: Mapping[Any, Any], prompt: str, response: str, where: str) -> Document | None:
    asked, answered = row[prompt], row[response]
    if asked is None or answered is None:
        return None
    more = row.get("input") if prompt == "instruction" else None
    if isinstance(more, str) and more.strip() and isinstance(asked, str):
        asked = f"{asked}\n\n{more}"
    return from_turns(asked, answered, row.get("system"), where)


def _nonblank(text: str) -> str | None:
    return text.replace("\r\n", "\n").replace("\r", "\n") if text.strip() else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "none"
