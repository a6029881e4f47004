"""``birdbone diff A B``: the differences between two models."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import AsJson, answer

_MODEL = "A step of a run, written RUN:STEP, or a model: a folder, .gguf file or hub id."


def diff_command(
    first: Annotated[str, typer.Argument(metavar="A", help=_MODEL)],
    second: Annotated[str, typer.Argument(metavar="B", help=_MODEL)],
    every: Annotated[
        bool, typer.Option("--all", help="One line per tensor instead of one per group of blocks.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the tensors, config keys and files that differ between two models.

    For each tensor: shape, dtype or grid, fraction of zeros, and relative change.
    """
    from ..journal.compare_models import compare_models, model_of
    from ..reports.comparison import comparison_report
    from ..reports.terminal import quiet_libraries, warnings_as_notes

    with warnings_as_notes(), quiet_libraries():
        found = compare_models(model_of(first), model_of(second)).as_dict()
    answer(found, lambda: comparison_report(found, every=every), as_json=as_json)
