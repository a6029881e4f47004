"""``birdbone plot FOLDER``: the waves that made a saved folder, as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import DataError

_FOLDER = "A folder that birdbone saved, or the JSON document of a run."
_OF = "What goes along the lower edge; bytes where they change, else parameters."
_RECORD = "birdbone.json"


def plot(
    folder: Annotated[Path, typer.Argument(help=_FOLDER)],
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .png or .svg file to write.")],
    of: Annotated[Literal["bytes", "parameters", "flops"] | None, typer.Option(help=_OF)] = None,
) -> None:
    """Draw perplexity against size over the waves of a run; needs the extra 'plot'."""
    from ..reports.curve import draw_curve
    from ..reports.waves import recorded_waves

    measure = draw_curve(recorded_waves(_steps(folder)), out, measure=of)
    typer.echo(f"{out}: perplexity against {measure}", err=True)


def _steps(path: Path) -> Any:
    """The history a saved folder or a run's JSON document holds."""
    file = path / _RECORD if path.is_dir() else path
    try:
        return json.loads(file.read_text(encoding="utf-8"))["steps"]
    except OSError as error:
        raise DataError(f"'{file}' cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(
            f"'{file}' is no record of a run ({type(error).__name__}: {error}); give a folder that "
            f"birdbone saved, or what `birdbone run --json` printed"
        ) from None
