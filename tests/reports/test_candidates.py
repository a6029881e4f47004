"""The candidates of a history as rows, a table, Markdown, and in the card."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

from rich.console import Console
from tiny import tiny_checkpoint

from birdbone.contexts.cost import Cost
from birdbone.contexts.steps import Step
from birdbone.reports.candidates import (
    CandidateRow,
    candidate_rows,
    candidates_markdown,
    candidates_table,
)
from birdbone.reports.card import model_card
from birdbone.reports.result import result_report


def _candidate(name: str, size: int, *, kept: bool, reason: str, **figures: Any) -> Step:
    metrics = {
        "candidate": name,
        "predicted_bytes": size,
        "kept": kept,
        "reason": reason,
        **figures,
    }
    return Step("candidate", {}, Cost(90.0, 0, "process"), metrics, "id", "select")


_BOTH = {"perplexity": 21.5, "rise": 0.1, "rise_error": 0.01}
_FIGURES = {"weight_bytes": 2000.0, "parameters": 1000.0, "nonzero": 1000.0, "perplexity": 10.0}
HISTORY = (
    Step("load", {}, Cost(1.0, 0, "process")),
    _candidate(
        "allocated",
        70_000_000,
        kept=True,
        reason="smallest rise on the worse text",
        **_BOTH,
        elsewhere_perplexity=33.0,
        elsewhere_rise=0.2,
    ),
    _candidate("3 bits | rows", 69_000_000, kept=False, reason="a | b", perplexity=30.0, rise=0.5),
    _candidate("2 bits", 60_000_000, kept=False, reason="the loss is nan"),
    Step("select", {}, Cost(500.0, 0, "process")),
)


def _printed(renderable: Any) -> str:
    console = Console(file=StringIO(), width=140)
    console.print(renderable)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_rows() -> None:
    rows = candidate_rows(HISTORY)
    assert rows == candidate_rows([step.as_dict() for step in HISTORY])
    assert [(row.name, row.kept, row.num_bytes) for row in rows] == [
        ("allocated", True, 70_000_000),
        ("3 bits | rows", False, 69_000_000),
        ("2 bits", False, 60_000_000),
    ]
    assert rows[0].figures == {"heldout": (21.5, 0.1, 0.01), "elsewhere": (33.0, 0.2, None)}
    assert list(rows[1].figures) == ["heldout"]
    assert rows[2].figures == {}
    assert candidate_rows([]) == []


def test_table() -> None:
    text = _printed(candidates_table(candidate_rows(HISTORY)))
    assert "Candidates within the budget" in text
    line = next(line for line in text.splitlines() if line.strip().startswith("allocated"))
    assert [*line.split()] == [
        *("allocated", "70.0", "MB", "10.0%", "±", "1.0%", "20.0%", "1.5", "min", "kept"),
    ]
    assert "–" in next(line for line in text.splitlines() if line.strip().startswith("2 bits"))


def test_table_in_80_columns() -> None:
    """A long name may wrap, figures may not."""
    name = "4 bits, groups of 128 or 64, embedding 8 bits"
    rows = [
        CandidateRow(
            name,
            True,
            84_600_000,
            {"heldout": (32.7, 0.12, 0.015), "elsewhere": (34.1, 0.116, 0.004)},
            144.0,
            "smallest rise",
        )
    ]
    console = Console(file=StringIO(), width=80)
    console.print(candidates_table(rows))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(each in text for each in ("84.6 MB", "12.0% ± 1.5%", "11.6% ± 0.4%", "2.4 min"))
    assert len(text.strip().splitlines()) <= 7


def test_markdown() -> None:
    lines = candidates_markdown(candidate_rows(HISTORY)).splitlines()
    assert lines[1].count("|") == 9
    assert all(line.count("|") == 9 for line in (lines[0], lines[2], lines[4]))
    assert lines[2].endswith("| kept: smallest rise on the worse text |")
    assert lines[4].endswith("| the loss is nan |")


def test_pipes_in_names_and_reasons() -> None:
    """They would end a cell."""
    line = candidates_markdown(candidate_rows(HISTORY)).splitlines()[3]
    assert line.count("|") == 9


def test_result_and_card_show_them() -> None:
    text = model_card(
        name="light",
        checkpoint=tiny_checkpoint(),
        weight_format="dense",
        history=HISTORY,
        figures={"light": _FIGURES},
        measured_on={},
    )
    assert "The candidates within the budget, judged in memory" in text
    assert "| allocated | 70.0 MB |" in text
    assert "candidates within the budget" not in model_card(
        name="light",
        checkpoint=tiny_checkpoint(),
        weight_format="dense",
        history=HISTORY[:1],
        figures={"light": _FIGURES},
        measured_on={},
    )
    assert "nothing was saved" in _printed(result_report({"history": HISTORY}))


def test_speed_is_a_column_if_it_was_measured() -> None:
    rows = candidate_rows(HISTORY)
    assert "speed" not in _printed(candidates_table(rows)) + candidates_markdown(rows)
    timed = [replace(rows[0], speed=1.523), *rows[1:]]
    for text in (_printed(candidates_table(timed)), candidates_markdown(timed)):
        assert "speed" in text
        assert text.count("×1.52") == 1
    assert len({line.count("|") for line in candidates_markdown(timed).splitlines()}) == 1
