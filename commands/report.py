"""``birdbone report PATH``: one HTML file about saved models and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    from .recorded_models import recorded_model

    if out.suffix.lower() not in (".html", ".htm"):
        raise SettingError(f"'{out}' does not end in .html; give a file name that does")
    check_writable_file(out)
    page = report_page([recorded_model(path) for path in paths])
    write_text(out, page)
    typer.echo(f"{out}: {', '.join(path.name for path in paths)}", err=True)
