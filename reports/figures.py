"""Plots, drawn with matplotlib without its global state and written to a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import MissingExtraError, SettingError
from ..models.writing.output_path import check_writable_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SUFFIXES = (".png", ".svg")
# The same plot gives the same file: ids in an SVG file are made from this, not at random.
_REPEATABLE = {"svg.hashsalt": "birdbone", "svg.fonttype": "none"}


def require_matplotlib() -> None:
    """Refuse to plot without matplotlib.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "plots need matplotlib; run pip install 'birdbone[plot]'"
        ) from error


def check_plot_file(path: Path) -> None:
    """Refuse a file that no plot can be written to, before there is one.

    Raises:
        SettingError: the name does not end in .png or .svg, or the file cannot be written.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise SettingError(f"'{path}' does not end in .png or .svg; give a file name that does")
    check_writable_file(path)


def draw_plot_file(draw: Callable[[Axes], None], path: Path, *, size: tuple[float, float]) -> None:
    """Draw one plot and write it to a .png or .svg file, the same file for the same plot.

    Raises:
        MissingExtraError, SettingError: as `draw_figure` and `check_plot_file`.
        ResourceError: the disk or the quota is full.
    """
    check_plot_file(path)
    # Without a date and a version, the same plot gives the same file.
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
    draw_figure(draw, path, size=size, metadata=metadata, dpi=150)


def draw_figure(
    draw: Callable[[Axes], None],
    out: Path | IO[Any],
    *,
    size: tuple[float, float],
    style: Mapping[str, Any] | None = None,
    **saving: Any,
) -> None:
    """Draw one plot and write it.

    Args:
        draw: draws on the axes.
        out: the file to write.
        size: width and height in inches.
        style: settings of matplotlib (rcParams) for this plot alone.
        saving: keywords of matplotlib's ``Figure.savefig``.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {**_REPEATABLE, **(style or {})}
    with rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        figure.savefig(out, **saving)
