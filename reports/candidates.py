"""The candidates of a budget as rows and tables, from their records: every size and its cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from ..contexts.steps import Step
from ..contexts.verdict import PREFIXES
from .units import in_bytes, in_time

_MISSING = "–"
_HEAD = ("perplexity", "rise", "elsewhere", "rise", "time", "")
_TERMINAL_HEAD = ("rise", "elsewhere", "time", "")


@dataclass(frozen=True)
class CandidateRow:
    """One candidate that was built and judged.

    Attributes:
        name: how it stores the model.
        kept: whether it is the one that was saved.
        num_bytes: predicted bytes of its weight files.
        speed: how many times as fast as the original it generates; None if speed was no budget.
        figures: perplexity, rise and rise_error by text, ``heldout`` and ``elsewhere``; a text is
            absent if the candidate failed before it was judged, or there was no such text.
        seconds: wall time of building and judging it.
        reason: why it was kept or not.
    """

    name: str
    kept: bool
    num_bytes: int
    figures: Mapping[str, tuple[float, float | None, float | None]]
    seconds: float
    reason: str
    speed: float | None = None


def candidate_rows(steps: Iterable[Step | Mapping[str, Any]]) -> list[CandidateRow]:
    """A row for each candidate in a history or in a ``birdbone.json``, in the order tried."""
    plain = [step.as_dict() if isinstance(step, Step) else step for step in steps]
    return [_row(step) for step in plain if step["link"] == "candidate"]


def _row(step: Mapping[str, Any]) -> CandidateRow:
    found: Mapping[str, Any] = step["metrics"]
    return CandidateRow(
        name=found["candidate"],
        kept=found["kept"],
        num_bytes=found["predicted_bytes"],
        figures={
            text: (
                found[f"{prefix}perplexity"],
                found.get(f"{prefix}rise"),
                found.get(f"{prefix}rise_error"),
            )
            for text, prefix in PREFIXES.items()
            if found.get(f"{prefix}perplexity") is not None
        },
        seconds=step["seconds"],
        reason=found["reason"],
        speed=found.get("speed"),
    )


def candidates_table(rows: Sequence[CandidateRow]) -> Table:
    """The candidates as a table for the terminal."""
    table = Table(
        title="Candidates within the budget: rise of perplexity on held-out text and elsewhere",
        title_justify="left",
        box=SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    head = _head(rows, _TERMINAL_HEAD)
    for place, name in enumerate(head):
        last = place == len(head) - 1
        justify: Literal["left", "right"] = "left" if place == 0 or last else "right"
        table.add_column(name, justify=justify, no_wrap=place > 0)
    for row in rows:
        rises = [_judged(row.figures.get(text))[1] for text in PREFIXES]
        cells = (*_first_cells(row, rows), *rises, in_time(row.seconds))
        table.add_row(*map(Text, cells), "kept" if row.kept else "")
    return table


def candidates_markdown(rows: Sequence[CandidateRow]) -> str:
    """The same as Markdown, with the reason in each row."""
    head = _head(rows, _HEAD)
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 2)}---|"]
    for row in rows:
        reason = f"kept: {row.reason}" if row.kept else row.reason
        judged = [cell for text in PREFIXES for cell in _judged(row.figures.get(text))]
        cells = (*_first_cells(row, rows), *judged, in_time(row.seconds), reason)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def _head(rows: Sequence[CandidateRow], rest: Sequence[str]) -> list[str]:
    """The names of the columns; speed is one if it was measured."""
    return ["candidate", "weights", *(["speed"] if _timed(rows) else []), *rest]


def _first_cells(row: CandidateRow, rows: Sequence[CandidateRow]) -> list[str]:
    speed = _MISSING if row.speed is None else f"×{row.speed:.2f}"
    return [row.name, in_bytes(row.num_bytes), *([speed] if _timed(rows) else [])]


def _timed(rows: Sequence[CandidateRow]) -> bool:
    return any(row.speed is not None for row in rows)


def _judged(figures: tuple[float, float | None, float | None] | None) -> tuple[str, str]:
    """Perplexity and rise on one text."""
    if figures is None:
        return _MISSING, _MISSING
    perplexity, rise, error = figures
    if rise is None:
        return f"{perplexity:.3f}", _MISSING
    noise = "" if error is None else f" ± {error:.1%}"
    return f"{perplexity:.3f}", f"{rise:.1%}{noise}"
