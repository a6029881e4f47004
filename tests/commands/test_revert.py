"""``birdbone revert``: the model after a step, as a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import birdbone, document, refused
from tiny_contexts import digests

from birdbone.journal import Journal
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model


def record(folder: Path) -> Any:
    return json.loads((folder / "birdbone.json").read_text())


@pytest.mark.parametrize("step", [3, 4, 5])
def test_the_model_of_that_step(step: int, run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "light"
    found = document("revert", run_folder, step, "--out", out)
    journal = Journal(run_folder)
    kept = journal.checkpoint(journal.step(step))
    assert found == {"path": str(out), "step": step, "checkpoint": kept.id}
    assert digests(open_checkpoint(find_model(str(out)))) == digests(kept)


def test_the_record_is_of_the_steps_that_led_there(run_folder: Path, tmp_path: Path) -> None:
    """Not of those of the run after it, which share the first two."""
    out = tmp_path / "light"
    document("revert", run_folder, 4, "--out", out)
    steps = record(out)["steps"]
    assert [each["link"] for each in steps] == ["profile", "score", "prune", "quantize"]
    assert steps[2]["settings"]["sparsity"] == 0.5
    assert record(out)["figures"] == {}
    assert set(record(out)["files"]) <= {path.name for path in out.iterdir()}


def test_it_says_that_nothing_was_measured(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "light"
    shown = birdbone("revert", run_folder, 3, "--out", out)
    assert shown.stdout.strip() == f"{out}: the model after step 3 (prune), not evaluated"


def test_a_folder_of_birdbone_is_replaced(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "light"
    for step in (3, 5):
        document("revert", run_folder, step, "--out", out)
    assert record(out)["steps"][-1]["settings"]["sparsity"] == 0.25
    assert [path.name for path in tmp_path.iterdir()] == ["light"]


def test_any_other_only_by_force(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "diary.txt").write_text("mine")
    assert "was not made by birdbone" in refused("revert", run_folder, 3, "--out", out)
    assert (out / "diary.txt").read_text() == "mine"
    document("revert", run_folder, 3, "--out", out, "--force")
    assert (out / "config.json").is_file()
    assert not (out / "diary.txt").exists()


def test_the_name_of_a_gguf_file(run_folder: Path, tmp_path: Path) -> None:
    """Elsewhere such a name is a file, with its records in a folder beside it."""
    words = refused("revert", run_folder, 3, "--out", tmp_path / "light.gguf")
    assert "revert writes a folder, and" in words
    assert "is the name of a GGUF file; give the name of a folder, and write the file" in words
    assert list(tmp_path.iterdir()) == []


def test_no_such_step(run_folder: Path, tmp_path: Path) -> None:
    words = refused("revert", run_folder, 9, "--out", tmp_path / "light")
    assert "has no step 9; it has 1, 2, 3, 4, 5, 6" in words
    assert "is not a run folder" in refused("revert", tmp_path, 1, "--out", tmp_path / "light")
    assert "Invalid value for" in refused("revert", run_folder, "three", "--out", "x", code=2)


def test_the_run_folder_stays(run_folder: Path, tmp_path: Path) -> None:
    def files() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in run_folder.rglob("*") if p.is_file()}

    before = files()
    document("revert", run_folder, 3, "--out", tmp_path / "light")
    assert files() == before
