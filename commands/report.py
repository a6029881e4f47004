"""``birdbone report PATH``: one HTML file about saved models and runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..reports.html_report.records import ModelRecord

_PATHS = "Folders or .gguf files that birdbone saved, and run folders."


def report_command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help=_PATHS)],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .html file to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Write one HTML page: size and cost, layers, generated text, links, provenance.

    The file needs no network. Plots need the extra birdbone[plot]; without it the page has the
    tables alone. With several models their sizes and costs are drawn side by side.
    """
    from ..errors import SettingError
    from ..models.writing.output_path import check_writable_file, write_text
    from ..reports.html_report.page import report_page

    if out.suffix.lower() not in (".html", ".htm"):
        raise SettingError(f"'{out}' does not end in .html; give a file name that does")
    check_writable_file(out)
    page = report_page([_record(path) for path in paths])
    write_text(out, page)
    typer.echo(f"{out}: {', '.join(path.name for path in paths)}", err=True)


def _record(path: Path) -> ModelRecord:
    """The record of a saved model, or of the last run of a run folder.

    Raises:
        RunFolderError: no link has finished in the run folder.
    """
    from ..errors import RunFolderError
    from ..journal.journal import MARKER, Journal
    from ..reports.html_report.records import model_record, read_model

    if not (path / MARKER).is_file():
        return read_model(path)
    journal = Journal(path)
    last = set(journal.last())
    finished = [each for each in journal.steps() if each.key in last]
    if not finished:
        raise RunFolderError(f"run folder '{path}' has no finished link; let the run finish one")
    steps = [step.as_dict() for each in finished for step in each.with_inner_steps()]
    return model_record(path.resolve().name, {"steps": steps})
