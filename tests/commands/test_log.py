"""``birdbone log``: the steps of a run folder, and the results of one."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import birdbone, document, refused


def test_steps_in_order(run_folder: Path) -> None:
    steps = document("log", run_folder)["steps"]
    assert [(each["number"], each["link"]) for each in steps] == list(
        enumerate(["profile", "score", "prune", "quantize", "prune", "quantize"], 1)
    )
    assert [each["number"] for each in steps if not each["in_last_run"]] == [3, 4]


def test_only_changed_settings_are_shown(run_folder: Path) -> None:
    """Those of the links by name; the document has all of them."""
    shown = birdbone("log", run_folder)
    assert shown.exit_code == 0
    assert "sparsity=0.5" in shown.stdout
    assert "method=magnitude" in shown.stdout.replace("'", "")
    assert "polish" not in shown.stdout
    assert document("log", run_folder)["steps"][2]["settings"]["polish"] == 0


def test_an_export(run_folder: Path, tmp_path: Path) -> None:
    found = document("log", run_folder, "--export", 2, "--out", tmp_path / "scores")
    assert found["path"] == str(tmp_path / "scores")
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == found["files"]
    step = json.loads((tmp_path / "scores" / "step.json").read_text())
    assert step["link"] == "score"


def test_an_export_in_words(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan"
    shown = birdbone("log", run_folder, "--export", 3, "--out", out)
    assert shown.stdout == f"{out}: masks.safetensors, plan.json, step.json\n"


def test_options_that_go_together(run_folder: Path, tmp_path: Path) -> None:
    assert "--export needs --out DIR, a new folder" in refused("log", run_folder, "--export", 1)
    only = refused("log", run_folder, "--out", tmp_path / "x")
    assert "--out is the folder for --export; give --export STEP too" in only
    assert not (tmp_path / "x").exists()


def test_a_folder_that_exists_is_kept(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    words = refused("log", run_folder, "--export", 1, "--out", tmp_path)
    assert "exists already; give the path of a new folder" in words
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_no_such_step(run_folder: Path, tmp_path: Path) -> None:
    words = refused("log", run_folder, "--export", 7, "--out", tmp_path / "x")
    assert "has no step 7; it has 1, 2, 3, 4, 5, 6" in words


def test_what_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "none", tmp_path / "file"):
        assert "is not a run folder; give the folder that was passed to run" in refused("log", path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_reading_changes_nothing(run_folder: Path, tmp_path: Path) -> None:
    def files() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in run_folder.rglob("*") if p.is_file()}

    before = files()
    birdbone("log", run_folder)
    birdbone("log", run_folder, "--export", 1, "--out", tmp_path / "x")
    assert files() == before
