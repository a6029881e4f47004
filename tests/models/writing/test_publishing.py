"""Publishing: what may be replaced, that nothing is lost when it fails, and what is left behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from birdbone.errors import ResourceError, SettingError
from birdbone.models.writing.publishing import (
    PROVENANCE,
    check_disk,
    check_file_target,
    check_target,
    files_of,
    is_ours,
    path_of,
    private_folder,
    publish,
    publish_file,
    records_of,
    set_aside,
)

OURS = json.dumps({"birdbone": "1"})


def made(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def ours(folder: Path, **files: str) -> Path:
    return made(folder, **{PROVENANCE: OURS, **files})


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_is_ours_by_its_record(tmp_path: Path) -> None:
    assert is_ours(ours(tmp_path / "a"))
    assert not is_ours(made(tmp_path / "b"))
    assert not is_ours(tmp_path / "none")
    for place, text in enumerate(["", "[]", '"birdbone"', "{}", "[" * 5000]):
        assert not is_ours(made(tmp_path / f"c{place}", **{PROVENANCE: text}))


def test_a_new_or_empty_folder_may_be_written(tmp_path: Path) -> None:
    assert check_target(tmp_path / "new") == tmp_path / "new"
    assert check_target(made(tmp_path / "empty")) == tmp_path / "empty"
    assert check_target(ours(tmp_path / "ours")) == tmp_path / "ours"
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    assert check_target(tmp_path / "link") == tmp_path / "ours"


def test_a_folder_of_others_needs_force(tmp_path: Path) -> None:
    folder = made(tmp_path / "mine", x="1")
    with pytest.raises(
        SettingError,
        match=r"mine' exists and was not made by birdbone; give another, or force=True \(--force\)",
    ):
        check_target(folder)
    assert check_target(folder, force=True) == folder


@pytest.mark.parametrize("force", [False, True])
def test_a_file_is_no_folder(tmp_path: Path, force: bool) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingError, match=r"file' is a file; give a folder$"):
        check_target(tmp_path / "file", force)


@pytest.mark.parametrize("inside", ["cwd", "home"])
def test_a_folder_around_the_work_or_home_is_never_replaced(
    inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = made(ours(tmp_path / "big") / "deep")
    monkeypatch.chdir(held if inside == "cwd" else tmp_path)
    monkeypatch.setenv("HOME", str(held if inside == "home" else tmp_path / "elsewhere"))
    with pytest.raises(SettingError, match=rf"big' holds {held}; give a folder of its own$"):
        check_target(tmp_path / "big", force=True)


def test_a_file_is_replaced_with_its_records_alone(tmp_path: Path) -> None:
    target = tmp_path / "light.gguf"
    assert check_file_target(target) == target
    made(records_of(target), x="1")
    with pytest.raises(SettingError, match=r"'light\.gguf\.birdbone' exists and was not made by"):
        check_file_target(target)
    assert check_file_target(target, force=True) == target
    shutil.rmtree(records_of(target))
    ours(records_of(target))
    target.write_text("weights")
    assert check_file_target(target) == target
    with pytest.raises(SettingError, match=r"is a folder; .*that does not end in '\.gguf'$"):
        check_file_target(made(tmp_path / "other.gguf"), force=True)


def test_a_saved_file_has_its_records_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "light.gguf"
    target.write_text("weights")
    assert path_of(target, "light.gguf") == target
    assert path_of(target, PROVENANCE) == tmp_path / "light.gguf.birdbone" / PROVENANCE
    assert path_of(tmp_path, PROVENANCE) == tmp_path / PROVENANCE


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_too_little_space_is_said_in_gigabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(10, 5, 2_500_000_000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    check_disk(tmp_path / "a" / "b", 2_500_000_000)
    assert asked == [tmp_path]  # the file system of the first folder that exists
    with pytest.raises(
        ResourceError, match=r"a' needs 2\.51 GB of disk, 2\.50 GB are free; free some, or give a"
    ):
        check_disk(tmp_path / "a", 2_510_000_000)


def test_a_private_folder_is_removed_unless_it_was_published(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "light"
    with private_folder(target, "partial") as folder:
        assert folder.parent == target.parent
        assert folder.name.startswith(".light.partial-")
        (folder / "x").write_text("1")
    assert names(tmp_path) == ["deep"]
    with pytest.raises(KeyError), private_folder(target, "partial"):
        raise KeyError
    assert names(tmp_path) == ["deep"]
    with private_folder(target, "partial") as folder:
        publish(folder, target)
    assert names(tmp_path) == ["deep", "deep/light"]


def test_publishing_replaces_a_folder_as_a_whole(tmp_path: Path) -> None:
    target = ours(tmp_path / "light", old="1", both="old")
    publish(made(tmp_path / "new", both="new"), target)
    assert names(tmp_path) == ["light", "light/both"]
    assert (target / "both").read_text() == "new"


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    folder = made(tmp_path / "new", x="1")
    (folder / "deep").mkdir()
    (folder / "deep" / "y").write_text("2")
    for path in (folder / "x", folder / "deep" / "y"):
        path.chmod(0o600)
    folder.chmod(0o755)
    publish(folder, tmp_path / "light")
    assert (tmp_path / "light" / "x").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "light" / "deep" / "y").stat().st_mode & 0o777 == 0o644


def test_a_rename_that_fails_restores_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = ours(tmp_path / "light", old="1")
    folder, rename = made(tmp_path / "new", new="1"), os.rename

    def refuse(source: Any, to: Any) -> None:
        if Path(source) == folder:
            raise OSError(errno.EIO, "input/output error")
        rename(source, to)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="input/output error"):
        publish(folder, target)
    assert sorted(path.name for path in target.iterdir()) == [PROVENANCE, "old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["light", "new"]


def test_a_file_and_its_records_are_published(tmp_path: Path) -> None:
    target = tmp_path / "light.gguf"
    target.write_text("old")
    ours(records_of(target), old="1")
    folder = ours(tmp_path / "new", light__gguf="new", card="text")
    publish_file(folder, target)
    assert target.read_text() == "new"
    assert names(records_of(target)) == [PROVENANCE, "card"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["light.gguf", "light.gguf.birdbone"]


def test_a_refused_folder_is_set_aside_over_an_earlier_one(tmp_path: Path) -> None:
    target = tmp_path / "light"
    for text in ("first", "second"):
        found = set_aside(ours(tmp_path / "new", x=text), target)
        assert found == tmp_path / "light.refused"
        assert (found / "x").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["light.refused"]


@pytest.mark.parametrize("taken", ["folder", "file", "link"])
def test_what_is_not_ours_is_never_replaced_by_a_refused_folder(taken: str, tmp_path: Path) -> None:
    aside = tmp_path / "light.refused"
    if taken == "folder":
        made(aside, mine="1")
    elif taken == "file":
        aside.write_text("mine")
    else:
        aside.symlink_to(ours(tmp_path / "other"))
    before = names(tmp_path)
    folder = ours(tmp_path / "new")
    assert set_aside(folder, tmp_path / "light") is None
    shutil.rmtree(folder)
    assert names(tmp_path) == before


def test_every_file_of_a_folder_has_its_relative_name(tmp_path: Path) -> None:
    made(tmp_path / "a" / "deep", y="2")
    (tmp_path / "a" / "x").write_text("1")
    made(tmp_path / "other", z="3")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "a" / "gone").symlink_to("nowhere")
    found = files_of(tmp_path / "a")
    assert list(found) == ["deep/y", "gone", "link", "x"]
    assert found["deep/y"].read_text() == "2"
