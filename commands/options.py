"""Options shared by several commands, and how a command prints its result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def answer(
    document: Mapping[str, Any], report: Callable[[], RenderableType], *, as_json: bool
) -> None:
    """Print the document as JSON, or as the report for people."""
    from ..reports.terminal import show

    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        show(report())


def one_or_more(values: list[str] | None) -> str | tuple[str, ...] | None:
    """What a repeatable option was given; one value stands alone, and is recorded so."""
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)
