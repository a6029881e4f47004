"""Collecting garbage: exactly the files that no step refers to go, and what is unclear stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_contexts import digests

from birdbone.checkpoints.manifest import encode_manifest
from birdbone.errors import RunFolderError
from birdbone.journal import Journal, RunFolder
from birdbone.journal.garbage import Collected, collect, folder_bytes

LEFT = ("objects/zz/left.safetensors", f"files/{'0' * 64}", f"manifests/{'0' * 64}.json")


def files(path: Path) -> set[str]:
    """Every file of a folder but its lock, by relative path."""
    found = {each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()}
    return {each for each in found if not each.startswith("lock")}


def put(path: Path, *names: str, size: int = 5) -> None:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(bytes(size))


def collected(journal: Journal, *, superseded: bool = False, dry: bool = False) -> Collected:
    with RunFolder(journal.path) as folder:
        return collect(folder, superseded=superseded, dry=dry)


def test_nothing_goes_where_every_file_is_referred_to(journal: Journal) -> None:
    before = files(journal.path)
    found = collected(journal)
    assert (found.steps, found.files, found.freed_bytes) == ((), 0, 0)
    assert files(journal.path) == before


def test_what_no_step_refers_to_goes(journal: Journal) -> None:
    before = files(journal.path)
    put(journal.path, *LEFT, "outcomes/x.part", "marker.part")
    found = collected(journal)
    assert (found.files, found.freed_bytes) == (5, 25)
    assert files(journal.path) == before
    assert not (journal.path / "objects" / "zz").exists()
    assert found.kept_bytes == folder_bytes(journal.path)


def test_a_dry_run_reports_the_same_and_deletes_nothing(journal: Journal) -> None:
    put(journal.path, *LEFT)
    before = files(journal.path)
    dry = collected(journal, superseded=True, dry=True)
    assert files(journal.path) == before
    assert collected(journal, superseded=True) == dry
    assert files(journal.path) < before
    assert json.loads(json.dumps(dry.as_dict()))["steps"] == [3]


def test_superseded_steps_go_with_what_only_they_refer_to(journal: Journal) -> None:
    kept = {number: journal.step(number) for number in (1, 2, 3, 4)}
    before = files(journal.path)
    found = collected(journal, superseded=True)
    assert (found.steps, found.files) == ((3,), 2)  # its outcome and its tensor
    gone = before - files(journal.path)
    assert f"outcomes/{kept[3].key}.json" in gone
    assert [name.split("/")[0] for name in sorted(gone)] == ["objects", "outcomes"]
    assert [each.number for each in journal.steps()] == [1, 2, 4]
    assert journal.value(kept[4], "sizes")["pair"] == (1, 2.0)
    assert digests(journal.checkpoint(kept[4]))


@pytest.mark.parametrize("content", [None, b"damaged", encode_manifest({"keys": [], "open": []})])
def test_nothing_is_superseded_by_a_run_that_is_not_known(
    journal: Journal, content: bytes | None
) -> None:
    """Else all steps, and with them every model, would be deleted."""
    (journal.path / "last.json").unlink()
    if content is not None:
        (journal.path / "last.json").write_bytes(content)
    before = files(journal.path)
    with pytest.raises(RunFolderError, match=r"none of the 4 steps of .* so all of them would be"):
        collected(journal, superseded=True)
    assert files(journal.path) == before
    assert collected(journal).files == 0


def test_an_empty_folder_has_no_garbage(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").close()
    assert collected(Journal(tmp_path / "run"), superseded=True).files == 0


def test_abandoned_work_goes_and_work_in_progress_stays(journal: Journal) -> None:
    for key in ("abandoned", "standing"):
        put(journal.path, f"unfinished/{key}/progress.json", f"unfinished/{key}/0.safetensors")
    (journal.path / "last.json").write_bytes(
        encode_manifest({"keys": journal.last(), "open": ["standing"]})
    )
    found = collected(journal)
    assert (found.files, found.freed_bytes) == (2, 10)
    assert [path.name for path in (journal.path / "unfinished").iterdir()] == ["standing"]
    assert len(files(journal.path / "unfinished")) == 2


def test_a_damaged_manifest_stops_before_anything_is_deleted(journal: Journal) -> None:
    (path,) = (journal.path / "manifests").iterdir()
    path.write_bytes(b"{}")
    put(journal.path, *LEFT)
    before = files(journal.path)
    with pytest.raises(RunFolderError, match=f"{path.name} is damaged .* unknown what it refers"):
        collected(journal)
    assert files(journal.path) == before


def test_a_missing_manifest_leaves_the_tensors_to_no_one(journal: Journal) -> None:
    """The step is incomplete and runs again, which writes them again."""
    (path,) = (journal.path / "manifests").iterdir()
    path.unlink()
    found = collected(journal)
    assert found.files > 10
    assert [each.number for each in journal.steps()] == [1, 2, 3, 4]
    assert journal.value(journal.step(3), "sizes")["pair"] == (1, 1.0)


def test_bytes_of_a_folder_are_those_of_its_files(tmp_path: Path) -> None:
    assert folder_bytes(tmp_path) == 0
    put(tmp_path, "a", "b/c/d", size=7)
    (tmp_path / "gone").symlink_to("nowhere")
    assert folder_bytes(tmp_path) == 14
