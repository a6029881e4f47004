"""``birdbone inspect MODEL``: what a model is and how it was made."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import MODEL, AsJson, answer

_ZEROS = "Also count zeros, which reads all weights."


def inspect(
    model: Annotated[str, typer.Argument(help=MODEL)],
    zeros: Annotated[bool, typer.Option("--zeros", help=_ZEROS)] = False,
    as_json: AsJson = False,
) -> None:
    """Show the architecture, size and history of a model, from its headers."""
    from ..reports.description import inspection_report
    from ..reports.inspection import inspect_model
    from ..reports.terminal import quiet_libraries, warnings_as_notes

    with warnings_as_notes(), quiet_libraries():
        found = inspect_model(model, zeros=zeros)
    answer(found.as_dict(), lambda: inspection_report(found), as_json=as_json)
