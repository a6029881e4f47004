"""``birdbone plot PATH...``: waves and saved models as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import DataError, RunFolderError

if TYPE_CHECKING:
    from ..journal.journal import KeptOutcome
    from ..reports.curve import Series

_PATHS = "Saved folders, .gguf files, run folders, or JSON documents of runs."
_OF = "Size on the horizontal axis; by default bytes if the waves change them, else parameters."


def plot(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help=_PATHS)],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .png or .svg file to write.")],
    of: Annotated[Literal["bytes", "parameters", "flops"] | None, typer.Option(help=_OF)] = None,
) -> None:
    """Plot perplexity against size: the waves of runs, and saved models.

    Several paths are drawn side by side. Needs the extra birdbone[plot].
    """
    from ..reports.curve import draw_series

    series = [_series(path) for path in paths]
    measure = draw_series(series, out, measure=of)
    for path, each in zip(paths, series, strict=True):
        if each.final is None and not any(row.judged for row in each.rows):
            left_out = f"note: '{path}' is left out: its record has no rise over the original model"
            typer.echo(left_out, err=True)
    typer.echo(f"{out}: perplexity against {measure}", err=True)


def _series(path: Path) -> Series:
    from ..journal.journal import MARKER
    from ..reports.curve import Series, final_of
    from ..reports.waves import recorded_waves

    if (path / MARKER).is_file():
        steps, figures = _steps_of_run(path)
    else:
        found = _record(path)
        steps, figures = found["steps"], found.get("figures") or {}
    try:
        final = final_of(figures)
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"'{path}' is not the record of a run ({type(error).__name__}: {error}); give a "
            f"folder that birdbone saved"
        ) from None
    return Series(path.resolve().name, recorded_waves(steps), final)


def _steps_of_run(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The waves of the last run, or else of the last one kept, and the figures of what it saved.

    Raises:
        RunFolderError: neither waves nor save has finished in this folder.
    """
    from ..journal.journal import Journal

    journal = Journal(folder)
    last = journal.steps_of_last_run()
    saves = [each.step.metrics for each in last if each.step.link == "save"]
    chosen = _waves(last) or _waves(journal.steps())
    if not chosen and not saves:
        raise RunFolderError(
            f"run folder '{folder}' has no finished link 'waves' or 'save', so there is nothing to "
            f"plot; let the run finish one, or give a folder made by a chain with waves"
        )
    steps = [step.as_dict() for each in chosen[-1:] for step in each.with_inner_steps()]
    return steps, {"light": dict(saves[-1])} if saves else {}


def _waves(steps: list[KeptOutcome]) -> list[KeptOutcome]:
    return [each for each in steps if each.step.link == "waves"]


def _record(path: Path) -> dict[str, Any]:
    """The record of a saved model, or what ``birdbone run --json`` printed."""
    from ..models.writing.publishing import PROVENANCE, path_of

    is_model = path.is_dir() or path.suffix == ".gguf"
    file = path_of(path, PROVENANCE) if is_model else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {"steps": found["steps"], "figures": found.get("figures")}
    except OSError as error:
        raise DataError(f"'{file}' cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"'{file}' is not the record of a run ({type(error).__name__}: {error}); give a folder "
            f"that birdbone saved, a run folder, or the output of `birdbone run --json`"
        ) from None
