"""The table of tasks: its figures, its width, and what is unknown."""

from __future__ import annotations

import math
from dataclasses import replace

from rich.console import Console, RenderableType
from tiny_tasks import perplexity_result, scores

from birdbone.contexts.task_scores import recoveries, task_scores
from birdbone.reports.task_table import (
    conditions_of,
    conditions_report,
    recovery_cells,
    recovery_markdown,
    recovery_table,
)

DENSE, LIGHT = ([1, 1, 1, 1, 0, 1, 1, 1], [1, 1, 0, 1, 0, 1, 0, 1])
SUMS = recoveries([scores(DENSE)], [scores(LIGHT)])
PROSE = recoveries(
    [task_scores(perplexity_result([90.0, 110.0, 70.0], [20.0, 24.0, 15.0]))],
    [task_scores(perplexity_result([96.0, 115.0, 76.0], [20.0, 24.0, 15.0]))],
)


def shown(table: RenderableType) -> list[str]:
    console = Console(width=80, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def test_every_metric_has_a_line_that_fits() -> None:
    lines = shown(recovery_table([*SUMS, replace(SUMS[0], metric="acc_norm"), *PROSE]))
    assert [line.split()[0] for line in lines] == [
        "original",
        "sums,",
        "acc",
        "acc_norm",
        "prose,",
        "word_perplexity",
    ]
    assert {len(line.rstrip()) for line in lines if "," not in line} == {79}
    assert lines[2].split()[:7] == ["acc", "0.875", "±", "0.125", "0.625", "±", "0.183"]


def test_where_lower_is_better_it_is_marked() -> None:
    cells = recovery_cells(PROSE[0])
    assert cells[2] == "word_perplexity ↓"
    assert cells[5].startswith("+")
    assert float(cells[6].split("%")[0]) < 100
    assert "↓" not in recovery_cells(SUMS[0])[2]


def test_what_is_unknown_is_not_a_number() -> None:
    bare = replace(SUMS[0], recovery=math.nan, light_error=math.nan)
    assert recovery_cells(bare)[6] == "unknown: the original scores 0"
    assert recovery_cells(bare)[4] == "0.625"


def test_markdown_has_the_same_cells() -> None:
    head, rule, row = recovery_markdown(SUMS).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|") == 8
    assert row == f"| {' | '.join(recovery_cells(SUMS[0]))} |"


def test_conditions_that_both_share_are_said_once() -> None:
    one = conditions_of([scores(DENSE)], limit=8, seed=5)
    assert one["limit"] == "the first 8 samples of each task"
    assert conditions_of([scores(DENSE)], limit=None, seed=5)["limit"] == "all samples"
    (line,) = shown(conditions_report({"original": {"a": "1"}, "light": {"a": "1"}}))
    assert line == "original, light: a 1"
    assert len(shown(conditions_report({"original": {"a": "1"}, "light": {"a": "2"}}))) == 2
