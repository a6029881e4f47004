"""Syntax of text sources: a place, options after `?`, and a weight after `:`.

::

    notes.txt                 wiki/                     "corpus/**/*.jsonl.gz"
    chat.jsonl:2              wiki.parquet?column=body&rows=5000
    hf:NAME                   hf:NAME:CONFIG:SPLIT?column=text&rows=1000&stream=yes
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingError, did_you_mean

DataSetting = str | tuple[str, ...]
"""One source or several, in the syntax of this module."""

HUB = "hf:"
"""Prefix of datasets, from the hub or a local folder, which the package `datasets` reads."""

_OPTIONS = ("column", "rows", "weight", "stream")
_QUERY = re.compile(r"(?P<place>.*)\?(?P<options>[a-z_]+=[^?]*)", re.DOTALL)
_WEIGHT = re.compile(r"(?P<place>.+):(?P<weight>\d+(?:\.\d+)?)", re.DOTALL)
_YES_NO = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@dataclass(frozen=True)
class TextAddress:
    """One source, parsed.

    Attributes:
        place: a file, folder or glob, the name of a built-in text, or `hf:` and a dataset.
        weight: fraction of the windows from this source, relative to the other weights.
        column: the column of a table that holds the text; None to choose it by name.
        rows: maximum number of rows or documents to read.
        stream: read a dataset row by row instead of downloading it first.
    """

    place: str
    weight: float = 1.0
    column: str | None = None
    rows: int | None = None
    stream: bool = False

    @classmethod
    def parse(cls, text: str) -> TextAddress:
        """Parse `PLACE[:WEIGHT]` or `PLACE?option=value&option=value`.

        If a file or folder with the whole text as its name exists, it is that file. The place of a
        dataset may contain colons; its weight follows the split or is an option.

        Raises:
            SettingError: an option is unknown or has an invalid value.
        """
        if _exists(text):
            return cls(text)
        place, options = text, {}
        if found := _QUERY.fullmatch(text):
            place, options = found["place"], _options(text, found["options"])
        if (found := _WEIGHT.fullmatch(place)) and _ends_in_weight(place):
            place = found["place"]
            options.setdefault("weight", found["weight"])
        return cls(
            place,
            weight=_weight(text, options.get("weight", "1")),
            column=options.get("column"),
            rows=_rows(text, options["rows"]) if "rows" in options else None,
            stream=_yes(text, options.get("stream", "no")),
        )

    @property
    def is_dataset(self) -> bool:
        """Whether the package `datasets` reads it."""
        return self.place.startswith(HUB)

    @property
    def spelled(self) -> str:
        """The source without its weight, which does not affect what is read."""
        given = {"column": self.column, "rows": self.rows, "stream": "yes" if self.stream else None}
        options = "&".join(f"{name}={value}" for name, value in given.items() if value is not None)
        return f"{self.place}?{options}" if options else self.place


def parse_addresses(data: str | Sequence[str]) -> tuple[TextAddress, ...]:
    """Parse one source or several.

    Raises:
        SettingError: there is none, one is given twice, or one is invalid.
    """
    addresses = tuple(map(TextAddress.parse, [data] if isinstance(data, str) else data))
    if not addresses:
        raise SettingError("data names no text; give at least one source")
    seen: set[str] = set()
    for each in addresses:
        if each.spelled in seen:
            raise SettingError(f"text '{each.spelled}' is named twice; name it once, with a weight")
        seen.add(each.spelled)
    return addresses


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError):  # a name too long, or with a null character
        return False


def _ends_in_weight(place: str) -> bool:
    return not place.startswith(HUB) or place.count(":") >= 4


def _options(text: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name not in _OPTIONS:
            raise SettingError(
                f"text '{text}' has no option '{name}'; {did_you_mean(name, _OPTIONS)}"
            )
        if name in options or not value:
            fault = "twice" if name in options else "without a value"
            raise SettingError(f"text '{text}' gives option '{name}' {fault}; give it one value")
        options[name] = value
    return options


def _weight(text: str, value: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise SettingError(f"text '{text}' has weight {value}; give a finite number above 0")
    return weight


def _rows(text: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise SettingError(f"text '{text}' has rows={value}; give a whole number above 0")
    return int(value)


def _yes(text: str, value: str) -> bool:
    known: Mapping[str, bool] = _YES_NO
    if value.lower() not in known:
        raise SettingError(f"text '{text}' has stream={value}; give yes or no")
    return known[value.lower()]
