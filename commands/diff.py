"""``birdbone diff A B``: what differs between two models, and by how much."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import AsJson, answer

_MODEL = "A step, as RUN:STEP, or a model: a folder, .gguf file or hub id."


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help=_MODEL)],
    second: Annotated[str, typer.Argument(metavar="B", help=_MODEL)],
    every: Annotated[bool, typer.Option("--all", help="A line for each tensor.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which tensors changed, by how much, and their zeros, bits, shapes; and config keys."""
    from ..journal.comparing import compare, model_of
    from ..reports.comparison import comparison_report
    from ..reports.terminal import quiet_libraries, warnings_as_notes

    with warnings_as_notes(), quiet_libraries():
        found = compare(model_of(first), model_of(second)).as_dict()
    answer(found, lambda: comparison_report(found, every=every), as_json=as_json)
