"""A plot of the rise of perplexity against size over the waves of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..contexts.verdict import PREFIXES
from ..errors import DataError, SettingError
from ..models.writing.output_path import check_writable_file
from .both_texts import SHORT_NAMES
from .figures import draw_figure
from .waves import WaveRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = {
    "bytes": ("weights in memory, MB", 1e6),
    "parameters": ("parameters without the zeros of masks, millions", 1e6),
    "flops": ("operations per token, billions", 1e9),
}
_SUFFIXES = (".png", ".svg")
_SIZE = (7.0, 4.2)  # inches
_COLOURS = {"heldout": "#1f5f8b", "elsewhere": "#7a4f9a"}
_LINES = {"heldout": "o-", "elsewhere": "s--"}
_REVERTED = "#b5472f"


def draw_curve(rows: Sequence[WaveRow], path: Path, *, measure: str | None = None) -> str:
    """Plot every evaluated wave to a .png or .svg file; returns the measure of the horizontal axis.

    Held-out text and, where the record has it, text from elsewhere have a line each.

    Args:
        measure: bytes, parameters or flops; None for bytes if the waves change them, else
            parameters, which masks change too.

    Raises:
        DataError: fewer than two waves were evaluated.
        MissingExtraError: matplotlib is not installed.
        SettingError: the file name does not end in .png or .svg, or the file cannot be written.
        ResourceError: the disk or the quota is full.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise SettingError(f"'{path}' does not end in .png or .svg; give a file name that does")
    check_writable_file(path)
    judged = [row for row in rows if row.judged]
    if len(judged) < 2:
        raise DataError(
            f"{len(judged)} waves were evaluated, and a plot needs at least 2; run more waves"
        )
    chosen = measure or _changing(judged)
    if any(chosen not in row.sizes for row in judged):
        raise DataError(f"the record does not contain the {chosen} after each wave")
    # Without a date and a version, the same waves give the same file.
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
    draw_figure(
        lambda axes: _draw(axes, judged, chosen), path, size=_SIZE, metadata=metadata, dpi=150
    )
    return chosen


def _changing(rows: Sequence[WaveRow]) -> str:
    return "bytes" if len({row.sizes.get("bytes") for row in rows}) > 1 else "parameters"


def _draw(axes: Axes, rows: Sequence[WaveRow], measure: str) -> None:
    label, scale = MEASURES[measure]
    texts = {text: _points(rows, measure, scale, text) for text in PREFIXES}
    every = [point for points in texts.values() for point in points]
    ceiling = _ceiling([point for point in every if point.kept] or every)
    above = [point for point in every if point.height > ceiling]
    for text, points in texts.items():
        inside = [point for point in points if point not in above]
        kept = [point for point in inside if point.kept]
        reverted = [point for point in inside if not point.kept]
        name, colour = SHORT_NAMES[text], _COLOURS[text]
        _scatter(axes, kept, _LINES[text], colour, f"kept, {name}")
        _scatter(axes, reverted, "x", colour, f"reverted, {name}")
        for point in inside:
            _name(axes, point, point.height, str(point.number), beside=True)
    if above:
        sizes, tops = [point.size for point in above], [ceiling] * len(above)
        axes.plot(sizes, tops, "^", color=_REVERTED, label="reverted, above (rise)")
    for point in above:
        _name(axes, point, ceiling, f"{point.number} ({point.height:,.0f} %)", beside=False)
    axes.margins(x=0.08, y=0.1)
    axes.invert_xaxis()  # smaller models to the right
    axes.set_xlabel(label)
    axes.set_ylabel("rise of perplexity over dense, %")
    axes.set_title("Rise of perplexity against size, by wave", loc="left")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


@dataclass(frozen=True)
class _Point:
    """A wave on one text: its size, its rise and the rise's standard error, in percent."""

    number: int
    kept: bool
    size: float
    height: float
    error: float


def _points(rows: Sequence[WaveRow], measure: str, scale: float, text: str) -> list[_Point]:
    points = []
    for row in rows:
        rise, error = (getattr(row, f"{PREFIXES[text]}{name}") for name in ("rise", "rise_error"))
        if rise is not None:
            size = row.sizes[measure] / scale
            points.append(_Point(row.number, row.kept, size, 100 * rise, 100 * (error or 0.0)))
    return points


def _ceiling(kept: Sequence[_Point]) -> float:
    """Waves above this rise are drawn at the edge, so that they do not flatten the others."""
    top = max(point.height + point.error for point in kept)
    low = min(point.height - point.error for point in kept)
    return top + max(top - low, 1.0)


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
