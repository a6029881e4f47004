"""The waves of a history as rows, a table, Markdown and a picture."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from birdbone.contexts.cost import Cost
from birdbone.contexts.steps import Step
from birdbone.errors import DataError, MissingExtraError, SettingError
from birdbone.reports.curve import draw_curve
from birdbone.reports.waves import WaveRow, wave_rows, waves_markdown, waves_table


def wave(number: int, kept: bool = True, **found: Any) -> Step:
    settings = {"share": 0.1 if number else 0.0, "healing": 2}
    metrics = {"wave": number, "kept": kept, "reason": "held", **found}
    return Step("wave", settings, Cost(90.0, 0, "process"), metrics, "id", "waves")


def judged(number: int, perplexity: float, left: float, kept: bool = True, **found: Any) -> Step:
    sizes = {"parameters": 1000, "bytes": 4000, "flops": 2000}
    return wave(
        number,
        kept,
        **{f"{name}_left": left for name in sizes},
        **{name: round(size * left) for name, size in sizes.items()},
        perplexity=perplexity,
        perplexity_error=0.5,
        rise=perplexity / 20 - 1,
        rise_error=0.01,
        **found,
    )


HISTORY = (
    Step("load", {}, Cost(1.0, 0, "process")),
    judged(0, 20.0, 1.0),
    judged(1, 21.0, 0.9),
    judged(2, 60.0, 0.81, kept=False, reason="perplexity | rose"),
    wave(3, kept=False, reason="the loss is nan"),
    judged(4, 21.5, 0.85),
    Step("waves", {}, Cost(500.0, 0, "process")),
)


def rows() -> list[WaveRow]:
    return wave_rows(HISTORY)


def test_every_wave_has_its_row_from_records_and_from_json_alike() -> None:
    found = rows()
    assert [row.number for row in found] == [0, 1, 2, 3, 4]
    assert [row.kept for row in found] == [True, True, False, False, True]
    assert [row.judged for row in found] == [True, True, True, False, True]
    assert found[1].left == {"parameters": 0.9, "bytes": 0.9, "flops": 0.9}
    assert found[4].sizes["bytes"] == 3400
    stored = json.loads(json.dumps([step.as_dict() for step in HISTORY]))
    assert wave_rows(stored) == found


def test_the_table_says_what_each_wave_took_and_cost_and_why_it_was_reverted() -> None:
    console = Console(width=80, record=True, file=StringIO())
    console.print(waves_table(rows()))
    text = console.export_text()
    lines = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert "1 10.0% × 2 90.0% 90.0% 21.000 5.0% ± 1.0% 1.5 min" in lines
    assert "3 × 10.0% × 2 – – – – 1.5 min" in lines
    assert "Wave 3 was reverted: the loss is nan" in lines
    assert any(line.startswith("0 – – 100.0%") for line in lines)


def test_markdown_has_one_line_a_wave_whatever_the_reason_says() -> None:
    lines = waves_markdown(rows()).splitlines()
    assert len(lines) == 2 + 5
    assert len({line.count("|") for line in lines}) == 1
    assert "reverted: perplexity / rose" in lines[4]


@pytest.mark.parametrize("name", ["curve.svg", "curve.png"])
def test_the_picture_is_the_same_bytes_each_time(tmp_path: Path, name: str) -> None:
    (tmp_path / "again").mkdir()
    for path in (tmp_path / name, tmp_path / "again" / name):
        assert draw_curve(rows(), path) == "bytes"
    first = (tmp_path / name).read_bytes()
    assert first == (tmp_path / "again" / name).read_bytes()
    assert len(first) > 5000


def test_the_picture_names_each_judged_wave_and_what_stands_along_its_edges(tmp_path: Path) -> None:
    path = tmp_path / "curve.svg"
    draw_curve(rows(), path)
    text = path.read_text()
    for words in (
        "weights, MB",
        "rise of perplexity over dense, %",
        "kept, held-out text",
        ">4<",
        "2 (200 %)",
    ):
        assert words in text
    assert ">3<" not in text


def test_text_from_elsewhere_stands_below_held_out_text_and_in_the_picture(tmp_path: Path) -> None:
    elsewhere = {"elsewhere_perplexity": 30.0, "elsewhere_rise": 0.25, "elsewhere_rise_error": 0.02}
    steps = [judged(0, 20.0, 1.0), judged(1, 21.0, 0.9, **elsewhere)]
    found = wave_rows(steps)
    assert [row.elsewhere_rise for row in found] == [None, 0.25]
    console = Console(width=80, record=True, file=StringIO())
    console.print(waves_table(found))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    title = "Waves, evaluated in memory on held-out text; below it, on text from elsewhere"
    assert lines[0] == title
    first = lines.index("1 10.0% × 2 90.0% 90.0% 21.000 5.0% ± 1.0% 1.5 min")
    assert lines[first + 1] == "30.000 25.0% ± 2.0%"
    assert waves_markdown(found).splitlines()[3].endswith("| 30.000 | 25.0% ± 2.0% | held |")
    draw_curve(found, tmp_path / "both.svg")
    assert "kept, elsewhere" in (tmp_path / "both.svg").read_text()


def test_where_bytes_do_not_change_parameters_are_drawn(tmp_path: Path) -> None:
    steps = [judged(0, 20.0, 1.0), judged(1, 21.0, 0.9)]
    masked = [Step(s.link, s.settings, s.cost, {**s.metrics, "bytes": 4000}) for s in steps]
    assert draw_curve(wave_rows(masked), tmp_path / "a.svg") == "parameters"
    assert draw_curve(wave_rows(masked), tmp_path / "a.svg", measure="flops") == "flops"


def test_what_cannot_be_drawn_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="1 waves were evaluated, and a plot needs at least 2"):
        draw_curve(rows()[:1], tmp_path / "a.svg")
    with pytest.raises(SettingError, match=r"does not end in \.png or \.svg"):
        draw_curve(rows(), tmp_path / "a.pdf")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"install 'birdbone\[plot\]'"):
        draw_curve(rows(), tmp_path / "a.svg")
