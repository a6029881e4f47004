"""Parts that the sections of a page are made of, as HTML: tables, plots, texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ...errors import MissingExtraError


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """A table; empty without rows.

    Args:
        numbers: columns after the first hold numbers.
    """
    lines = [
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in rows
    ]
    if not lines:
        return ""
    top = "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>" if head else ""
    kind = ' class="numbers"' if numbers else ""
    return f'<div class="wide"><table{kind}>{top}{"".join(lines)}</table></div>'


def pairs(found: Mapping[str, Any]) -> str:
    """Names and values as a table without a head."""
    return table((), ([name.replace("_", " "), str(value)] for name, value in found.items()))


def remark(words: str) -> str:
    """A paragraph that stands out."""
    return f'<p class="remark">{escape(words)}</p>'


def plotted(plot: Callable[[], str]) -> str:
    """A plot, or the sentence on how to install what draws it."""
    try:
        return f"<figure>{plot()}</figure>"
    except MissingExtraError as error:
        return remark(str(error))


def listed(facts: Mapping[str, Any], key: str) -> Sequence[Any]:
    """A list of a record; empty if it has none of that name."""
    found = facts.get(key)
    return found if isinstance(found, list) else []


def mapping(facts: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A mapping of a record; empty if it has none of that name."""
    found = facts.get(key)
    return found if isinstance(found, Mapping) else {}
