"""Plots are written the same each time, and leave matplotlib's settings as they were."""

from __future__ import annotations

import io
from typing import Any

import pytest

pytest.importorskip("matplotlib")
import matplotlib

from birdbone.reports.figures import draw_figure


def line(axes: Any) -> None:
    axes.plot([0, 1], [0, 1], label="a < b")
    axes.legend()


def svg(**more: Any) -> str:
    file = io.StringIO()
    draw_figure(line, file, size=(2, 1), format="svg", metadata={"Date": None}, **more)
    return file.getvalue()


def test_the_same_plot_gives_the_same_text() -> None:
    assert svg() == svg()


def test_words_stay_words() -> None:
    assert ">a &lt; b</text>" in svg()


def test_the_size_is_in_inches() -> None:
    assert 'width="144pt" height="72pt"' in svg()


def test_style_is_of_one_plot_alone() -> None:
    before = dict(matplotlib.rcParams)
    assert "#123456" in svg(style={"text.color": "#123456"})
    assert dict(matplotlib.rcParams) == before
    assert "#123456" not in svg()
