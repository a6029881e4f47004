"""The plots of a report: what is named in them, and that they fit into any page."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from xml.etree import ElementTree

import pytest

from birdbone.reports.html_report import plots
from birdbone.reports.html_report.layers import LayerGrid
from birdbone.reports.html_report.records import Point

POINTS = (
    Point("original", 4e8, 0.0, 0.0, "heldout"),
    Point("light", 1e8, 0.05, 0.01, "heldout"),
    Point("original", 4e8, 0.0, 0.0, "elsewhere"),
    Point("light", 1e8, 0.09, 0.02, "elsewhere"),
)
GRID = LayerGrid(
    ("mlp.up", "mlp.down"),
    ("0", "1", "2"),
    {("mlp.up", "0"): 0.1, ("mlp.up", "2"): 0.9, ("mlp.down", "1"): 0.5},
    "bits per weight",
)
STEPS = [{"link": "load", "seconds": 30.0, "peak_bytes": 5e8}, {"link": "heal", "seconds": 90.0}]
EVERY: dict[str, Callable[[], str]] = {
    "frontier": lambda: plots.frontier(POINTS),
    "layer map": lambda: plots.layer_map(GRID),
    "logarithmic": lambda: plots.layer_map(GRID, logarithmic=True),
    "curves": lambda: plots.curves({"training_loss": [3.0, 2.0], "heldout_loss": [2.5]}),
    "timeline": lambda: plots.timeline(STEPS),
}


@cache
def drawn(kind: str) -> str:
    """The plot of a kind, drawn once."""
    return EVERY[kind]()


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize("kind", EVERY)
def test_each_fits_into_any_page(kind: str) -> None:
    """It scales, and takes the colours of the page."""
    svg = drawn(kind)
    root = ElementTree.fromstring(svg.replace("xlink:", ""))
    assert root.tag.endswith("svg")
    assert "viewBox" in root.attrib
    assert "height" not in root.attrib
    assert "currentColor" in svg
    assert "#010203" not in svg


def test_the_same_values_are_the_same_plot() -> None:
    assert EVERY["timeline"]() == drawn("timeline")


def test_the_frontier_names_each_point_once() -> None:
    found = texts(drawn("frontier"))
    assert (found.count("original"), found.count("light")) == (1, 1)
    assert {"weights, MB", "rise of perplexity, %", "held-out text", "elsewhere"} <= set(found)
    assert "held-out text, not used" not in found


def test_points_that_were_not_used_have_a_name_of_their_own() -> None:
    unused = Point("wave 2", 2e8, 0.5, 0.1, "heldout", kept=False)
    found = texts(plots.frontier((*POINTS, unused)))
    assert "held-out text, not used" in found
    assert "elsewhere, not used" not in found
    assert "wave 2" in found


def test_points_of_text_from_elsewhere_alone_are_drawn() -> None:
    found = texts(plots.frontier(POINTS[2:]))
    assert {"original", "light", "elsewhere"} <= set(found)
    assert "held-out text" not in found


def test_a_map_names_rows_columns_and_unit() -> None:
    found = texts(drawn("layer map"))
    assert {"mlp.up", "mlp.down", "0", "1", "2", "block", "bits per weight"} <= set(found)


def test_a_deep_model_has_at_most_two_dozen_numbers_below() -> None:
    blocks = tuple(str(number) for number in range(100, 196))
    cells = {("mlp.up", block): float(block) for block in blocks}
    found = texts(plots.layer_map(LayerGrid(("mlp.up",), blocks, cells, "bits")))
    shown = [text for text in found if text in blocks]
    assert shown[:3] == ["100", "108", "116"]
    assert len(shown) <= 24


def test_a_logarithmic_scale_is_another_picture() -> None:
    assert drawn("layer map") != drawn("logarithmic")


def test_losses_are_named_in_words() -> None:
    found = texts(drawn("curves"))
    assert {"training loss", "heldout loss", "fraction of healing", "loss"} <= set(found)


def test_links_are_bars_one_after_the_other() -> None:
    svg = drawn("timeline")
    assert [text for text in texts(svg) if text in ("load", "heal")] == ["load", "heal"]
    assert "minutes; beside each bar its peak memory" in texts(svg)
    assert "500.0 MB" in [text.strip() for text in texts(svg)]
    starts = [
        tuple(float(x) for x in re.findall(r"[ML] ([\d.]+) ", path))
        for path in re.findall(r'<g id="patch_\d+">\s*<path d="([^"]*)"[^>]*clip-path', svg)
    ]
    (first_left, first_right), (second_left, second_right) = (
        (min(each), max(each)) for each in starts[-2:]
    )
    assert second_left == pytest.approx(first_right)
    assert second_right - second_left == pytest.approx(3 * (first_right - first_left), rel=1e-3)
