"""The original of a saved model, by its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint
from tiny_folders import written

from birdbone.models.evaluation.original import named_original, open_original, recorded_steps


def facts(**settings: Any) -> dict[str, Any]:
    return {"steps": [{"link": "load", "settings": settings}, {"link": "save", "settings": {}}]}


def test_the_name_is_what_load_was_given() -> None:
    assert named_original(facts(model="owner/name")) == "owner/name"


@pytest.mark.parametrize(
    "record",
    [{}, {"steps": 3}, {"steps": ["load"]}, {"steps": []}, facts(model=3), {"steps": [{}]}],
)
def test_a_record_that_names_none(record: dict[str, Any]) -> None:
    assert named_original(record) is None


def test_damaged_steps_are_none() -> None:
    assert recorded_steps({"steps": [1]}) is None
    assert recorded_steps(facts()) == facts()["steps"]


def test_it_is_opened_in_the_dtype_of_the_record(tmp_path: Path) -> None:
    folder = str(written(tiny_checkpoint(), tmp_path / "dense"))
    name = "lm_head.weight"
    half = open_original(facts(model=folder, dtype="bfloat16"), folder)
    assert half.refs[name].dtype == torch.bfloat16
    assert open_original(facts(model=folder), folder).refs[name].dtype == torch.float32
    assert open_original({}, folder).refs[name].dtype == torch.float32
