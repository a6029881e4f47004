"""Options that several commands take, and how a command answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def answer(
    document: Mapping[str, Any], report: Callable[[], RenderableType], *, as_json: bool
) -> None:
    """Write the document, or what a person reads of it, to stdout."""
    from ..reports.terminal import show

    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        show(report())
