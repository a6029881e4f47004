from typing import Any

import pytest
from rich.console import Console

from birdbone.reports.steps import steps_report

HEAL: dict[str, Any] = {
    "number": 7,
    "link": "heal",
    "settings": {"method": "blocks", "epochs": 1},
    "seconds": 1389.04,
    "peak_bytes": 1_700_000_000,
    "metrics": {"kept": True, "steps": 1824, "kl_after": 0.0663871, "error": [0.5, 0.25, 0.125]},
    "checkpoint": "2b12d433aaaa",
    "in_last_run": True,
}


def shown(*steps: dict[str, Any], in_progress: int = 0) -> list[str]:
    document = {"steps": steps, "in_progress": in_progress, "folder": "runs/mine", "bytes": 1234}
    console = Console(width=80)
    with console.capture() as capture:
        console.print(steps_report(document, {"heal": {"method": "blocks", "epochs": None}}))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_step_is_a_line_with_its_settings_and_metrics_below() -> None:
    assert shown(HEAL) == [
        "   7  heal   1,389.0 s    1.7 GB  2b12d433  kept",
        "      epochs=1",
        "      kept yes, steps 1,824, kl_after 0.066387, error 0.5 … 0.125 (3)",
        "runs/mine: 1.2 kB on disk",
    ]


def test_figures_by_layer_and_by_task_are_counted() -> None:
    metrics = {"errors": {"a": 0.5, "b": 0.25}, "tasks": {"sums acc": {"light": 0.5}}}
    assert shown(HEAL | {"metrics": metrics})[2] == ("      errors of 2 layers, tasks of 1 metrics")


@pytest.mark.parametrize(
    ("changes", "fate"),
    [
        ({"metrics": {"kept": False}}, "reverted"),
        ({"in_last_run": False}, "another run"),
        ({"metrics": {}}, "2b12d433"),
    ],
)
def test_what_became_of_a_step_ends_its_line(changes: dict[str, Any], fate: str) -> None:
    assert shown(HEAL | changes)[0].endswith(fate)


def test_columns_stand_below_one_another_and_lines_fit() -> None:
    validate = HEAL | {"link": "validate", "settings": {"data": "x" * 200}, "checkpoint": None}
    lines = shown(HEAL, validate, in_progress=2)
    assert lines[0].index("1.7 GB") == lines[3].index("1.7 GB")
    assert max(map(len, lines)) <= 80
    assert lines[-2] == "2 links were interrupted"
