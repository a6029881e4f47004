"""A chain as an HTML table, which notebooks show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import modulink

from .naming import summary

_INDENT = 2 * "\N{NO-BREAK SPACE}"
_HEAD = ("link", "needs", "adds")


def chain_table(name: str, links: Iterable[Any]) -> str:
    """One row per link, with its changed settings and the context keys it needs and adds."""
    rows = "".join(_row(cells) for cells in _cells(links, ""))
    head = "".join(f"<th>{each}</th>" for each in _HEAD)
    return f"<table><caption>{escape(name)}</caption><tr>{head}</tr>{rows}</table>"


def _cells(links: Iterable[Any], indent: str) -> Iterable[Sequence[str]]:
    for each in links:
        if isinstance(each, modulink.Chain):
            yield (f"{indent}{each.__name__}", "", "")
            yield from _cells(getattr(each, "links", ()), indent + _INDENT)
        else:
            keys = (", ".join(sorted(getattr(each, name, ()))) for name in ("needs", "adds"))
            yield (f"{indent}{summary(each)}", *keys)


def _row(cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<td>{escape(each)}</td>' for each in cells)}</tr>"
