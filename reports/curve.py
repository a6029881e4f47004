"""A plot of perplexity against size over the waves of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, MissingExtraError, SettingError
from .waves import WaveRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = {
    "bytes": ("weights in memory, MB", 1e6),
    "parameters": ("parameters without the zeros of masks, millions", 1e6),
    "flops": ("operations per token, billions", 1e9),
}
_SUFFIXES = (".png", ".svg")
_KEPT, _REVERTED = "#1f5f8b", "#b5472f"


def draw_curve(rows: Sequence[WaveRow], path: Path, *, measure: str | None = None) -> str:
    """Plot every evaluated wave to a .png or .svg file; returns the measure of the horizontal axis.

    Args:
        measure: bytes, parameters or flops; None for bytes if the waves change them, else
            parameters, which masks change too.

    Raises:
        DataError: fewer than two waves were evaluated.
        MissingExtraError: matplotlib is not installed.
        SettingError: the file name does not end in .png or .svg.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise SettingError(f"'{path}' does not end in .png or .svg; give a file name that does")
    judged = [row for row in rows if row.judged]
    if len(judged) < 2:
        raise DataError(
            f"{len(judged)} waves were evaluated, and a plot needs at least 2; run more waves"
        )
    chosen = measure or _changing(judged)
    if any(chosen not in row.sizes for row in judged):
        raise DataError(f"the record does not contain the {chosen} after each wave")
    figure, axes = _canvas()
    _draw(axes, judged, chosen)
    # No date, and ids from a fixed salt: the same waves give the same file.
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
    with _settings():
        figure.savefig(path, metadata=metadata, dpi=150)
    return chosen


def _changing(rows: Sequence[WaveRow]) -> str:
    return "bytes" if len({row.sizes.get("bytes") for row in rows}) > 1 else "parameters"


def _canvas() -> tuple[Any, Axes]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "plots need matplotlib; run pip install 'birdbone[plot]'"
        ) from error
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    return figure, figure.subplots()


def _settings() -> Any:
    from matplotlib import rc_context

    return rc_context({"svg.hashsalt": "birdbone", "svg.fonttype": "none"})


def _draw(axes: Axes, rows: Sequence[WaveRow], measure: str) -> None:
    label, scale = MEASURES[measure]
    points = [_Point(row, row.sizes[measure] / scale) for row in rows]
    ceiling = _ceiling([point for point in points if point.row.kept] or points)
    above = [point for point in points if point.height > ceiling]
    inside = [point for point in points if point not in above]
    _scatter(axes, [point for point in inside if point.row.kept], "o-", _KEPT, "kept")
    _scatter(axes, [point for point in inside if not point.row.kept], "x", _REVERTED, "reverted")
    if above:
        sizes, tops = [point.size for point in above], [ceiling] * len(above)
        axes.plot(sizes, tops, "^", color=_REVERTED, label="reverted, above (perplexity)")
    for point in inside:
        _name(axes, point, point.height, str(point.row.number), beside=True)
    for point in above:
        _name(axes, point, ceiling, f"{point.row.number} ({point.height:,.0f})", beside=False)
    axes.margins(x=0.08, y=0.1)
    axes.invert_xaxis()  # smaller models to the right
    axes.set_xlabel(label)
    axes.set_ylabel("perplexity, held-out text")
    axes.set_title("Perplexity against size, by wave", loc="left")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


@dataclass(frozen=True)
class _Point:
    row: WaveRow
    size: float

    @property
    def height(self) -> float:
        return self.row.perplexity or 0.0

    @property
    def error(self) -> float:
        return self.row.perplexity_error or 0.0


def _ceiling(kept: Sequence[_Point]) -> float:
    """Waves above this perplexity are drawn at the edge, so that they do not flatten the others."""
    top = max(point.height + point.error for point in kept)
    low = min(point.height - point.error for point in kept)
    return top + max(top - low, 0.05 * top)


def _name(axes: Axes, point: _Point, height: float, words: str, *, beside: bool) -> None:
    axes.annotate(
        words,
        (point.size, height),
        xytext=(7, 4) if beside else (0, 7),
        textcoords="offset points",
        ha="left" if beside else "center",
        fontsize=8,
    )


def _scatter(axes: Axes, points: Sequence[_Point], style: str, colour: str, name: str) -> None:
    if not points:
        return
    axes.errorbar(
        [point.size for point in points],
        [point.height for point in points],
        yerr=[point.error for point in points],
        fmt=style,
        color=colour,
        ecolor=f"{colour}66",
        capsize=3,
        label=name,
    )
