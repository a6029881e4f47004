"""The table of ``birdbone eval``: both models on each task, and how much of the score is left."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..contexts.task_scores import Recovery, TaskScores

_WIDTHS = (17, 13, 13, 14, 14)  # metric, original, light, difference, recovery

REMARK = (
    "± is one standard error; those of difference and recovery are paired: both models answered "
    "the same samples. Recovery is light over original, or original over light where lower is "
    "better (↓). It says little where the original is near chance."
)


def recovery_table(found: Iterable[Recovery]) -> RenderableType:
    """A line for each metric, under the name of its task; fits 80 columns."""
    lines: list[RenderableType] = [_line(("", *HEADINGS[3:]))]
    before = None
    for each in found:
        cells = recovery_cells(each)
        if each.task != before:
            lines.append(Text(f"{each.task}, {cells[1]} samples", overflow="fold"))
        lines.append(_line(cells[2:]))
        before = each.task
    return Group(*lines)


def _line(cells: Sequence[str]) -> RenderableType:
    """Cells in columns as wide as in every other line."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for place, width in enumerate(_WIDTHS):
        table.add_column(justify="right" if place else "left", min_width=width, overflow="fold")
    table.add_row(*map(Text, cells))
    return table


HEADINGS = ("task", "n", "metric", "original", "light", "difference", "recovery")


def recovery_markdown(found: Iterable[Recovery]) -> str:
    """The same as a table of Markdown."""
    rows = [HEADINGS, ("---", "---:", "---", *["---:"] * 4), *map(recovery_cells, found)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def recovery_cells(found: Recovery) -> tuple[str, ...]:
    """Task, samples, metric, original, light, difference and recovery in words."""
    return (
        found.task,
        f"{found.num_samples:,}",
        found.metric + ("" if found.higher_is_better else " ↓"),
        _figure(found.dense, found.dense_error),
        _figure(found.light, found.light_error),
        _figure(found.difference, found.difference_error, signed=True),
        _percent(found.recovery, found.recovery_error),
    )


def conditions_of(
    scores: Sequence[TaskScores], *, limit: int | None, seed: int
) -> Mapping[str, str]:
    """How scores were made: versions, runtime, samples."""
    first = scores[0]
    return {
        "lm-eval": first.lm_eval,
        **first.environment,
        "limit": "all samples" if limit is None else f"the first {limit} samples of each task",
        "seed": str(seed),
    }


def conditions_report(sides: Mapping[str, Mapping[str, str]]) -> RenderableType:
    """The conditions of each model in a line; what several share is said once."""
    groups: dict[str, list[str]] = {}
    for name, found in sides.items():
        words = ", ".join(f"{key} {value}" for key, value in found.items())
        groups.setdefault(words, []).append(name)
    lines = (Text(f"{', '.join(names)}: {words}") for words, names in groups.items())
    return Group(*lines)


def _figure(value: float, error: float, *, signed: bool = False) -> str:
    digits = 3 if abs(value) < 10 else 1
    words = f"{value:{'+' if signed else ''},.{digits}f}"
    return words if math.isnan(error) else f"{words} ± {error:,.{digits}f}"


def _percent(value: float, error: float) -> str:
    if math.isnan(value):
        return "unknown: the original scores 0"
    return f"{value:.1%}" if math.isnan(error) else f"{value:.1%} ± {error:.1%}"
