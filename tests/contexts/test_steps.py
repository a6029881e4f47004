"""A step's record as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from birdbone.contexts.cost import Cost
from birdbone.contexts.steps import Step


def test_a_record_is_json_whatever_its_settings_and_metrics() -> None:
    step = Step(
        "prune",
        {"sparsity": 0.5, "out": Path("light"), "bounds": (1, None), "nested": {1: float("inf")}},
        Cost(1.5, 100, "process"),
        {"loss": float("nan"), "curve": [2.0, 1.0]},
        checkpoint="ab",
    )
    found = json.loads(json.dumps(step.as_dict(), allow_nan=False))
    assert found["settings"] == {
        "sparsity": 0.5,
        "out": "light",
        "bounds": [1, None],
        "nested": {"1": None},
    }
    assert found["metrics"] == {"loss": None, "curve": [2.0, 1.0]}
    assert (found["seconds"], found["peak_bytes"], found["peak_of"]) == (1.5, 100, "process")
    assert (found["link"], found["checkpoint"], found["within"]) == ("prune", "ab", None)
