"""The picture of waves: what is in it, where it is drawn, and what is refused before drawing."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from birdbone.errors import DataError, MissingExtraError, SettingError
from birdbone.reports.curve import MEASURES, Series, draw_curve, draw_series, final_of
from birdbone.reports.waves import WaveRow

FIGURES = ("perplexity", "perplexity_error", "rise", "rise_error")


def row(number: int, rise: float | None, left: float, *, kept: bool = True, **more: Any) -> WaveRow:
    """A wave; one without a rise ended before it was evaluated."""
    sizes = {"parameters": 1e6, "bytes": 4e6, "flops": 2e9}
    figures: dict[str, Any] = dict.fromkeys(FIGURES)
    if rise is not None:
        figures = dict(zip(FIGURES, (20 * (1 + rise), 0.5, rise, 0.01), strict=True))
    return WaveRow(
        number=number,
        kept=kept,
        share=0.1,
        healing=1,
        left=dict.fromkeys(sizes, left),
        sizes={name: size * left for name, size in sizes.items()},
        seconds=1.0,
        reason="",
        **{**figures, **more},
    )


WAVES = (row(700, 0.0, 1.0), row(701, 0.05, 0.9), row(702, None, 0.8), row(703, 0.08, 0.7))


def drawn(path: Path, rows: tuple[WaveRow, ...] = WAVES, **more: Any) -> list[str]:
    """The texts in the picture."""
    draw_curve(rows, path, **more)
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def test_evaluated_waves_are_named_and_others_are_not(tmp_path: Path) -> None:
    texts = drawn(tmp_path / "a.svg")
    assert {"700", "701", "703"} <= set(texts)
    assert "702" not in texts
    assert "kept, held-out text" in texts
    assert "kept, elsewhere" not in texts
    assert "Rise of perplexity against size, by wave" in texts


def test_errors_have_the_colour_of_what_they_belong_to(tmp_path: Path) -> None:
    figures = {"weight_bytes": 1e6, "rise": 0.1, "rise_error": 0.01}
    final = final_of({"light": figures, "dense": {"weight_bytes": 4e6}})
    draw_series([Series(name, [], final) for name in ("a", "b")], tmp_path / "a.svg")
    strokes = re.findall(r"stroke: (#[0-9a-f]{6})", (tmp_path / "a.svg").read_text())
    plain = {"#000000", "#b0b0b0", "#cccccc"}
    assert {each for each in strokes if each not in plain} == {"#1f77b4", "#ff7f0e"}


@pytest.mark.parametrize("measure", MEASURES)
def test_the_axis_is_what_was_asked_for(measure: str, tmp_path: Path) -> None:
    assert draw_curve(WAVES, tmp_path / "a.svg", measure=measure) == measure
    assert MEASURES[measure][0] in (tmp_path / "a.svg").read_text()


def test_parameters_are_drawn_where_bytes_stay(tmp_path: Path) -> None:
    masked = [row(n, 0.1 * n, 1 - n / 10) for n in range(3)]
    assert draw_curve(masked, tmp_path / "a.svg") == "bytes"
    for each in masked:
        assert isinstance(each.sizes, dict)
        each.sizes["bytes"] = 4e6
    assert draw_curve(masked, tmp_path / "a.svg") == "parameters"


def test_a_reverted_wave_far_above_stands_at_the_edge_with_its_rise(tmp_path: Path) -> None:
    texts = drawn(tmp_path / "a.svg", (*WAVES, row(4, 12.0, 0.5, kept=False)))
    assert "4 (1,200 %)" in texts
    assert "reverted, above (rise)" in texts
    near = drawn(tmp_path / "b.svg", (*WAVES, row(4, 0.1, 0.5, kept=False)))
    assert "4" in near
    assert "reverted, held-out text" in near


def test_waves_that_were_all_reverted_are_drawn(tmp_path: Path) -> None:
    texts = drawn(tmp_path / "a.svg", tuple(row(n, 0.5, 0.9, kept=False) for n in (1, 2)))
    assert {"1", "2", "reverted, held-out text"} <= set(texts)


def test_text_from_elsewhere_has_a_line_of_its_own(tmp_path: Path) -> None:
    more = {"elsewhere_perplexity": 30.0, "elsewhere_rise": 0.09, "elsewhere_rise_error": None}
    assert "kept, elsewhere" in drawn(tmp_path / "a.svg", (*WAVES, row(4, 0.1, 0.5, **more)))


@pytest.mark.parametrize("name", ["a.svg", "a.png", "a.SVG", "a.PNG"])
def test_the_same_waves_are_the_same_bytes(name: str, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    for path in (tmp_path / name, tmp_path / "again" / name):
        draw_curve(WAVES, path)
    data = (tmp_path / name).read_bytes()
    assert data == (tmp_path / "again" / name).read_bytes()
    assert (b"<svg" in data, data[1:4] == b"PNG") == (name[2] in "sS", name[2] in "pP")


def test_fewer_than_two_evaluated_waves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^1 waves were evaluated, and a plot needs at least 2; run more waves$"
    ):
        draw_curve((row(0, 0.0, 1.0), row(1, None, 0.9)), tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []


def test_a_measure_that_was_not_recorded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^the record does not contain the energy after each wave$"
    ):
        draw_curve(WAVES, tmp_path / "a.svg", measure="energy")


@pytest.mark.parametrize("name", ["a.pdf", "a", "svg", "a.svg.txt"])
def test_other_formats_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"does not end in \.png or \.svg; give a file name"):
        draw_curve(WAVES, tmp_path / name)


def test_a_file_that_cannot_be_written_is_refused_before_drawing(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be written: there is no folder"):
        draw_curve((), tmp_path / "none" / "a.svg")


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"run pip install 'birdbone\[plot\]'"):
        draw_curve(WAVES, tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []
