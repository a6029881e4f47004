"""``birdbone gc``: what no step refers to is deleted, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import birdbone, document, refused
from tiny_contexts import digests

from birdbone.journal import Journal, RunFolder


@pytest.fixture
def folder(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the run folder, with 4 bytes in it that a crash left."""
    copy = tmp_path / "run"
    shutil.copytree(run_folder, copy)
    (copy / "left.part").write_bytes(b"left")
    return copy


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_a_crash_left(folder: Path) -> None:
    before = size(folder)
    found = document("gc", folder)
    assert (found["files"], found["freed_bytes"], found["steps"]) == (1, 4, [])
    assert not (folder / "left.part").exists()
    assert size(folder) == found["kept_bytes"] == before - 4


def test_only_a_report(folder: Path) -> None:
    before = size(folder)
    assert document("gc", folder, "--dry-run")["freed_bytes"] == 4
    assert size(folder) == before
    shown = birdbone("gc", folder, "--dry-run").stdout
    assert shown.startswith("would free 4 bytes in 1 files; ")
    assert shown.endswith(" remain\n")


def test_steps_that_the_last_run_did_not_use(folder: Path) -> None:
    journal = Journal(folder)
    last = digests(journal.checkpoint(journal.step(6)))
    shown = birdbone("gc", folder, "--superseded")
    assert ", including steps 3, 4; " in shown.stdout
    steps = document("log", folder)["steps"]
    assert [each["number"] for each in steps] == [1, 2, 5, 6]
    journal = Journal(folder)
    assert digests(journal.checkpoint(journal.step(6))) == last
    assert "has no step 3" in refused("revert", folder, 3, "--out", folder.parent / "x")


def test_twice_frees_nothing_more(folder: Path) -> None:
    document("gc", folder, "--superseded")
    again = document("gc", folder, "--superseded")
    assert (again["files"], again["freed_bytes"], again["steps"]) == (0, 0, [])
    assert birdbone("gc", folder).stdout.startswith("freed 0 bytes in 0 files; ")


def test_a_folder_in_use(folder: Path) -> None:
    with RunFolder(folder):
        assert "is in use by process" in refused("gc", folder)
    assert (folder / "left.part").exists()


def test_what_is_no_run_folder(tmp_path: Path) -> None:
    """It is not made one either."""
    assert "is not a run folder" in refused("gc", tmp_path)
    assert "is not a run folder" in refused("gc", tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
