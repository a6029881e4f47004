"""Durations as settings: 90s, 30min, 1.5h."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

_FORM = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|h)")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def seconds_of(text: str) -> float:
    """Return the seconds of a duration.

    Raises:
        ValueError: it is misspelled, or zero.
    """
    found = _FORM.fullmatch(text.strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not seconds:
        raise ValueError(f"'{text}' is no duration; write it like 90s, 30min or 2h")
    return seconds


def _checked(text: str) -> str:
    seconds_of(text)
    return text


Duration = Annotated[str, AfterValidator(_checked)]
"""A duration such as ``30min``."""
