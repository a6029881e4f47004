"""A plot of the rise of perplexity against size: the waves of runs and the saved models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..contexts.verdict import PREFIXES
from ..errors import DataError
from .both_texts import SHORT_NAMES
from .figures import check_plot_file, draw_plot_file
from .waves import WaveRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = {
    "bytes": ("weights, MB", 1e6),
    "parameters": ("parameters without the zeros of masks, millions", 1e6),
    "flops": ("operations per token, billions", 1e9),
}
_SIZE = (7.0, 4.2)  # inches
_COLOURS = {"heldout": "#1f5f8b", "elsewhere": "#7a4f9a"}
_LINES = {"heldout": "o-", "elsewhere": "s--"}
_SAVED = {"heldout": "D", "elsewhere": "P"}
_REVERTED = "#b5472f"


@dataclass(frozen=True)
class Final:
    """A saved model and what it was made from.

    Attributes:
        sizes, dense: sizes of the saved and of the original model, by measure; empty if unknown.
        rises: rise of perplexity and its standard error, as fractions, by context key of the text.
    """

    sizes: Mapping[str, float]
    dense: Mapping[str, float]
    rises: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """The waves of one run and the model it saved; either may be missing."""

    name: str
    rows: Sequence[WaveRow]
    final: Final | None = None


def final_of(figures: Mapping[str, Mapping[str, float]]) -> Final | None:
    """The saved model of measured figures; None if its rise was not measured."""
    light, dense = figures.get("light", {}), figures.get("dense", {})
    rises = {
        text: (float(light[f"{prefix}rise"]), float(light.get(f"{prefix}rise_error", 0.0)))
        for text, prefix in PREFIXES.items()
        if f"{prefix}rise" in light
    }
    return Final(_sizes(light), _sizes(dense), rises) if rises else None


def _sizes(figures: Mapping[str, float]) -> dict[str, float]:
    keys = {"bytes": "weight_bytes", "parameters": "parameters"}
    return {name: float(figures[key]) for name, key in keys.items() if key in figures}


def draw_curve(rows: Sequence[WaveRow], path: Path, *, measure: str | None = None) -> str:
    """Plot the waves of one run; see `draw_series`."""
    return draw_series([Series("", rows)], path, measure=measure)


def draw_series(series: Sequence[Series], path: Path, *, measure: str | None = None) -> str:
    """Plot every evaluated wave and saved model to a .png or .svg file; returns the measure.

    Held-out text and, where the record has it, text from elsewhere have a line each. Bars are
    standard errors of the paired difference to the original model.

    Args:
        measure: the horizontal axis: bytes, parameters or flops; None for bytes if the waves change
            them, else parameters, which masks change too.

    Raises:
        DataError: fewer than two waves and models were evaluated.
        MissingExtraError: matplotlib is not installed.
        SettingError: the file name does not end in .png or .svg, or the file cannot be written.
        ResourceError: the disk or the quota is full.
    """
    check_plot_file(path)
    judged = [replace(each, rows=[row for row in each.rows if row.judged]) for each in series]
    rows = [row for each in judged for row in each.rows]
    finals = [each.final for each in judged if each.final is not None]
    if len(rows) + 2 * len(finals) < 2:
        raise DataError(
            f"{len(rows)} waves were evaluated, and a plot needs at least 2; run more waves"
        )
    chosen = measure or _changing(rows)
    sizes = [row.sizes for row in rows] + ([] if rows else [each.sizes for each in finals])
    if any(chosen not in each for each in sizes):
        raise DataError(f"the record does not contain the {chosen} after each wave")
    draw_plot_file(lambda axes: _draw(axes, judged, chosen), path, size=_SIZE)
    return chosen


def _changing(rows: Sequence[WaveRow]) -> str:
    varied = not rows or len({row.sizes.get("bytes") for row in rows}) > 1
    return "bytes" if varied else "parameters"


def _draw(axes: Axes, series: Sequence[Series], measure: str) -> None:
    label = MEASURES[measure][0]
    drawn = [_Drawn(place, each, measure, len(series)) for place, each in enumerate(series)]
    every = [point for each in drawn for points in each.points.values() for point in points]
    ceiling = _ceiling([point for point in every if point.kept] or every)
    above = [point for point in every if point.height > ceiling]
    for each in drawn:
        for text, points in each.points.items():
            inside = [point for point in points if point not in above]
            waves = [point for point in inside if not point.saved]
            saved = [point for point in inside if point.saved]
            colour = each.colour(text)
            words = each.words(text)
            _scatter(axes, [p for p in waves if p.kept], _LINES[text], colour, f"kept, {words}")
            _scatter(axes, [p for p in waves if not p.kept], "x", colour, f"reverted, {words}")
            _scatter(axes, saved, _SAVED[text], colour, f"saved, {words}")
            for point in inside:
                _name(axes, point, point.height, point.name, beside=True)
    if above:
        sizes, tops = [point.size for point in above], [ceiling] * len(above)
        axes.plot(sizes, tops, "^", color=_REVERTED, label="reverted, above (rise)")
    for point in above:
        _name(axes, point, ceiling, f"{point.name} ({point.height:,.0f} %)", beside=False)
    axes.margins(x=0.14, y=0.1)  # room for names beside points
    axes.set_xlabel(label)
    axes.set_ylabel("rise of perplexity over dense, %")
    by_wave = any(each.rows for each in series)
    title = "Rise of perplexity against size"
    axes.set_title(f"{title}, by wave" if by_wave else title, loc="left")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


@dataclass(frozen=True)
class _Point:
    """A wave or model on one text: its size, rise and the rise's standard error, in percent."""

    name: str
    kept: bool
    size: float
    height: float
    error: float
    saved: bool = False


class _Drawn:
    """One series as points by text, and how it is told from the others."""

    def __init__(self, place: int, series: Series, measure: str, count: int) -> None:
        self._place, self._name, self._alone = place, series.name, count == 1
        scale = MEASURES[measure][1]
        self.points = {
            text: [
                *_points(series.rows, measure, scale, text),
                *_final_points(series, measure, scale, text, alone=self._alone),
            ]
            for text in PREFIXES
        }

    def colour(self, text: str) -> str:
        """By text for a single series, else by series."""
        return _COLOURS[text] if self._alone else f"C{self._place}"

    def words(self, text: str) -> str:
        """The text, after the name of the series if there are several."""
        return SHORT_NAMES[text] if self._alone else f"{self._name}, {SHORT_NAMES[text]}"


def _points(rows: Sequence[WaveRow], measure: str, scale: float, text: str) -> list[_Point]:
    points = []
    for row in rows:
        rise, error = (getattr(row, f"{PREFIXES[text]}{name}") for name in ("rise", "rise_error"))
        if rise is not None:
            size = row.sizes[measure] / scale
            points.append(_Point(str(row.number), row.kept, size, 100 * rise, 100 * (error or 0.0)))
    return points


def _final_points(
    series: Series, measure: str, scale: float, text: str, *, alone: bool
) -> list[_Point]:
    """The saved model and, if no wave stands for it, the original."""
    final = series.final
    if final is None or text not in final.rises or measure not in final.sizes:
        return []
    rise, error = final.rises[text]
    name = "saved" if alone else series.name
    size = final.sizes[measure] / scale
    points = [_Point(name, True, size, 100 * rise, 100 * error, saved=True)]
    if not series.rows and measure in final.dense:
        size = final.dense[measure] / scale
        points.append(_Point("original", True, size, 0.0, 0.0, saved=True))
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
    from matplotlib.colors import to_rgba

    axes.errorbar(
        [point.size for point in points],
        [point.height for point in points],
        yerr=[point.error for point in points],
        fmt=style,
        color=colour,
        ecolor=to_rgba(colour, 0.4),
        capsize=3,
        label=name,
    )
