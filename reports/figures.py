"""Plots, drawn with matplotlib without its global state and written to a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The same plot gives the same file: ids in an SVG file are made from this, not at random.
_REPEATABLE = {"svg.hashsalt": "birdbone", "svg.fonttype": "none"}


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
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "plots need matplotlib; run pip install 'birdbone[plot]'"
        ) from error
    settings: dict[Any, Any] = {**_REPEATABLE, **(style or {})}
    with rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        figure.savefig(out, **saving)
