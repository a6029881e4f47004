"""The plots of a report, as SVG to put into HTML. They take the text colour of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...contexts.verdict import PREFIXES
from ..both_texts import SHORT_NAMES
from ..figures import draw_figure
from ..units import in_bytes
from .layers import LayerGrid
from .records import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = "#010203"  # replaced by the text colour of the page
_MARKERS = {"heldout": "o", "elsewhere": "s"}
_COLOURS = {"heldout": "#2a78b5", "elsewhere": "#a05fb4"}
_STYLE: dict[str, Any] = {  # rcParams
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
    ),
}


def frontier(points: Sequence[Point]) -> str:
    """Rise of perplexity against size: original, waves, candidates and saved models."""

    def draw(axes: Axes) -> None:
        for text in PREFIXES:
            of_text = [point for point in points if point.text == text]
            for kept in (True, False):
                chosen = [point for point in of_text if point.kept is kept]
                _scatter(axes, chosen, text, kept)
        for point in points:
            if point.text == points[0].text:
                place = (point.num_bytes / 1e6, 100 * point.rise)
                axes.annotate(
                    point.name, place, xytext=(6, 6), textcoords="offset points", fontsize=8
                )
        axes.set_xlabel("weights, MB")
        axes.set_ylabel("rise of perplexity, %")
        axes.margins(x=0.15, y=0.2)
        axes.grid(alpha=0.2)
        axes.legend(frameon=False)

    return _svg(draw, 7.2, 4.0)


def _scatter(axes: Axes, points: Sequence[Point], text: str, kept: bool) -> None:
    if not points:
        return
    name = SHORT_NAMES[text] if kept else f"{SHORT_NAMES[text]}, not used"
    axes.errorbar(
        [point.num_bytes / 1e6 for point in points],
        [100 * point.rise for point in points],
        yerr=[100 * point.error for point in points],
        fmt=_MARKERS[text] if kept else "x",
        color=_COLOURS[text],
        alpha=1.0 if kept else 0.6,
        capsize=3,
        label=name,
    )


def layer_map(grid: LayerGrid, *, logarithmic: bool = False) -> str:
    """One value per linear layer: blocks from left to right, kinds of linear from top to bottom."""
    return _svg(lambda axes: draw_layers(axes, grid, logarithmic), *layers_size(grid))


def layers_size(grid: LayerGrid) -> tuple[float, float]:
    """Width and height of a map of layers, in inches."""
    return 7.2, 1.3 + 0.28 * len(grid.roles)


def draw_layers(axes: Axes, grid: LayerGrid, logarithmic: bool) -> None:
    """Draw a map of layers."""
    from matplotlib.colors import LogNorm

    mesh = axes.pcolormesh(grid.values(), cmap="viridis", norm=LogNorm() if logarithmic else None)
    axes.set_yticks([row + 0.5 for row in range(len(grid.roles))], grid.roles)
    step = max(1, len(grid.blocks) // 12)
    axes.set_xticks(
        [column + 0.5 for column in range(0, len(grid.blocks), step)], grid.blocks[::step]
    )
    axes.invert_yaxis()
    axes.set_xlabel("block")
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.02)
    bar.set_label(grid.unit)
    bar.outline.set_visible(False)


def curves(losses: Mapping[str, Sequence[float]]) -> str:
    """Losses of healing, one line each, over the course of training."""

    def draw(axes: Axes) -> None:
        for name, values in losses.items():
            places = [(place + 1) / len(values) for place in range(len(values))]
            axes.plot(places, values, "-" if len(values) > 1 else "o", label=name.replace("_", " "))
        axes.set_xlabel("fraction of healing")
        axes.set_ylabel("loss")
        axes.grid(alpha=0.2)
        axes.legend(frameon=False)

    return _svg(draw, 7.2, 3.2)


def timeline(steps: Sequence[Mapping[str, Any]]) -> str:
    """Each link as a bar from its start to its end, one below the other."""

    def draw(axes: Axes) -> None:
        start = 0.0
        for row, step in enumerate(steps):
            axes.barh(row, step["seconds"] / 60, left=start / 60, color=_COLOURS["heldout"])
            start += step["seconds"]
            if step.get("peak_bytes"):
                words = f" {in_bytes(step['peak_bytes'])}"
                axes.annotate(words, (start / 60, row), va="center", fontsize=8)
        axes.set_yticks(range(len(steps)), [step["link"] for step in steps])
        axes.invert_yaxis()
        axes.set_xlabel("minutes; beside each bar its peak memory")
        axes.margins(x=0.12)
        axes.grid(alpha=0.2, axis="x")

    return _svg(draw, 7.2, 1.0 + 0.3 * len(steps))


def _svg(draw: Callable[[Axes], None], width: float, height: float) -> str:
    """Draw one plot; its size in inches decides the proportions only, pages scale it."""
    file = io.StringIO()
    draw_figure(
        draw,
        file,
        size=(width, height),
        style=_STYLE,
        format="svg",
        metadata={"Date": None},
        transparent=True,
    )
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
