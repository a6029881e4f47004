"""``birdbone diff``: what differs between two models, whichever way they are given."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import birdbone, document, refused


def test_a_model_and_itself(run_folder: Path) -> None:
    found = document("diff", f"{run_folder}:3", f"{run_folder}:3")
    assert (found["changed"], found["added"], found["removed"]) == ([], [], [])
    assert found["config"] == {}
    assert "0 changed" in birdbone("diff", f"{run_folder}:3", f"{run_folder}:3").stdout


def test_two_steps(run_folder: Path) -> None:
    """Of two sparsities, the second keeps more."""
    found = document("diff", f"{run_folder}:3", f"{run_folder}:5")
    assert len(found["changed"]) == 21
    for each in found["changed"]:
        assert each["zeros"] == [pytest.approx(0.5, abs=0.01), pytest.approx(0.25, abs=0.01)]
        assert each["relative"] > 0


def test_the_other_way_round(run_folder: Path) -> None:
    there = document("diff", f"{run_folder}:3", f"{run_folder}:4")
    back = document("diff", f"{run_folder}:4", f"{run_folder}:3")
    assert [each["name"] for each in there["changed"]] == [each["name"] for each in back["changed"]]
    assert [each["kinds"] for each in there["changed"]] == [
        each["kinds"][::-1] for each in back["changed"]
    ]
    assert there["num_bytes"] == back["num_bytes"][::-1]


def test_a_step_and_a_folder(run_folder: Path, tmp_path: Path) -> None:
    assert birdbone("revert", run_folder, 3, "--out", tmp_path / "light").exit_code == 0
    found = document("diff", f"{run_folder}:3", tmp_path / "light")
    assert found["changed"] == []


def test_a_line_for_each(run_folder: Path) -> None:
    pair = f"{run_folder}:3", f"{run_folder}:5"
    short, long = birdbone("diff", *pair).stdout, birdbone("diff", *pair, "--all").stdout
    assert "model.layers.*.mlp.up_proj.weight (3)" in short
    assert "model.layers.1.mlp.up_proj.weight" not in short
    for block in range(3):
        assert f"model.layers.{block}.mlp.up_proj.weight" in long


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("{run}:9", "has no step 9"),
        ("{run}:0", "has no step 0"),
        ("{tmp}:1", "is not a run folder"),
        ("{tmp}/none", "not found"),
    ],
)
def test_what_is_not_there(first: str, words: str, run_folder: Path, tmp_path: Path) -> None:
    model = first.format(run=run_folder, tmp=tmp_path)
    assert words in refused("diff", model, f"{run_folder}:3")
    assert words in refused("diff", f"{run_folder}:3", model)


def test_one_model_is_not_enough(run_folder: Path) -> None:
    assert "Missing argument 'B'" in refused("diff", f"{run_folder}:3", code=2)
