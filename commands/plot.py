"""``birdbone plot PATH``: the waves of a run as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import DataError, RunFolderError

_PATH = "A saved folder, a run folder, or the JSON document of a run."
_OF = "Size on the horizontal axis; by default bytes if the waves change them, else parameters."


def plot(
    path: Annotated[Path, typer.Argument(help=_PATH)],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .png or .svg file to write.")],
    of: Annotated[Literal["bytes", "parameters", "flops"] | None, typer.Option(help=_OF)] = None,
) -> None:
    """Plot perplexity against size over the waves of a run. Needs the extra birdbone[plot]."""
    from ..journal.journal import MARKER
    from ..reports.curve import draw_curve
    from ..reports.waves import recorded_waves

    is_run = (path / MARKER).is_file()
    steps = _steps_of_run(path) if is_run else _recorded_steps(path)
    measure = draw_curve(recorded_waves(steps), out, measure=of)
    typer.echo(f"{out}: perplexity against {measure}", err=True)


def _steps_of_run(folder: Path) -> list[dict[str, Any]]:
    """The records of the link waves in the last run, or else of the last one kept.

    Raises:
        RunFolderError: no link waves has finished in this folder.
    """
    from ..journal.journal import Journal

    journal = Journal(folder)
    finished = [each for each in journal.steps() if each.step.link == "waves"]
    last = set(journal.last())
    chosen = [each for each in finished if each.key in last] or finished
    if not chosen:
        raise RunFolderError(
            f"run folder '{folder}' has no finished link 'waves', so there is nothing to plot; "
            f"let the run finish it, or give a folder made by a chain with waves"
        )
    return [step.as_dict() for step in chosen[-1].with_inner_steps()]


def _recorded_steps(path: Path) -> Any:
    """The history recorded with a saved model or printed by ``birdbone run --json``."""
    from ..models.writing.publishing import PROVENANCE, path_of

    is_model = path.is_dir() or path.suffix == ".gguf"
    file = path_of(path, PROVENANCE) if is_model else path
    try:
        return json.loads(file.read_text(encoding="utf-8"))["steps"]
    except OSError as error:
        raise DataError(f"'{file}' cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(
            f"'{file}' is not the record of a run ({type(error).__name__}: {error}); give a folder "
            f"that birdbone saved, a run folder, or the output of `birdbone run --json`"
        ) from None
