"""Settings and messages prepared for logs: plain types, with secrets replaced.

A value is hidden if its name says that it is a key, token, password or the like, or if its text has
the form of a known credential. Numbers named tokens or keys are counts and are kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "[redacted]"

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_SECRET_WORD = re.compile(
    r"(?:api)?keys?|tokens?|secrets?|passw(?:or)?ds?|pwd|passphrases?|credentials?"
    r"|auth(?:orization)?|bearer|cookies?"
)
_COUNTED_WORDS = frozenset({"tokens", "keys"})
_SECRET_TEXT = re.compile(
    r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[abp]-|wandb_v\d_)[\w-]{8,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
    r"|(?i:(?<=bearer )[\w.~+/-]{8,}=*)"
    r"|(?i:(?<=key=)|(?<=token=)|(?<=secret=)|(?<=password=))[^\s&'\",;)]+"
)


def redacted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON-compatible types; secrets become `HIDDEN`, objects their text."""
    return {
        str(name): HIDDEN if _is_secret(str(name), value) else _plain(value)
        for name, value in settings.items()
    }


def redacted_text(text: str) -> str:
    """Return a message with everything that has the form of a credential replaced by `HIDDEN`."""
    return _SECRET_TEXT.sub(HIDDEN, text)


def error_text(error: BaseException) -> str:
    """Return the message of an error without secrets, or its type if it has no message."""
    return redacted_text(str(error)) or type(error).__name__


def _is_secret(name: str, value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return False
    words = {word.lower() for word in _WORDS.findall(name)}
    found = {word for word in words if _SECRET_WORD.fullmatch(word)}
    counted = isinstance(value, int | float) and found <= _COUNTED_WORDS
    return bool(found) and not counted


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return redacted(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return redacted_text(str(value))
