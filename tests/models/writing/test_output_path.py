"""An output that cannot be written is refused before any work, and trying leaves nothing behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from birdbone.errors import BirdboneError, ResourceError, SettingError
from birdbone.links.saving.target import check_output
from birdbone.models.writing.output_path import check_writable, check_writable_file, write_text
from birdbone.models.writing.publishing import private_folder


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "light")
    check_output(str(tmp_path / "c" / "light"), "auto", False)
    check_output(str(tmp_path / "c" / "light.gguf"), "auto", False)
    check_writable_file(tmp_path / "plot.png")
    assert everything(tmp_path) == []


def test_a_path_under_a_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    said = f"cannot be written: '{tmp_path}/file' is a file, not a folder; give a path that can"
    for name in ("light", "light.gguf"):
        with pytest.raises(SettingError, match=said):
            check_output(str(tmp_path / "file" / "deep" / name), "auto", False)
    with (
        pytest.raises(SettingError, match=said),
        private_folder(tmp_path / "file" / "light", "partial"),
    ):
        raise AssertionError
    assert everything(tmp_path) == [tmp_path / "file"]


def test_a_name_with_no_room_for_the_staging_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="the name is too long"):
        check_writable(tmp_path / ("x" * 250))
    assert everything(tmp_path) == []


FAULTS: dict[int, tuple[type[BirdboneError], str]] = {
    errno.EROFS: (SettingError, "the file system is read-only"),
    errno.EACCES: (SettingError, "writing there is not permitted"),
    errno.ENOSPC: (ResourceError, "the disk is full; free some"),
    errno.EDQUOT: (ResourceError, "the disk quota is used up; free some"),
    errno.EIO: (SettingError, "input/output error"),
}


@pytest.mark.parametrize("number", FAULTS)
def test_what_the_system_says_is_told_in_one_sentence(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any, *_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    kind, said = FAULTS[number]
    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(kind, match=f"output 'light' cannot be written: {said}"):
        check_writable(tmp_path / "light", "light")


def test_a_disk_that_holds_folders_and_no_data_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        check_writable(tmp_path / "a" / "light")
    assert everything(tmp_path) == []


def test_a_single_file_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="there is no folder"):
        check_writable_file(tmp_path / "none" / "plot.png")
    with pytest.raises(SettingError, match="is a folder; give the name of a file"):
        check_writable_file(tmp_path)


def test_a_full_disk_leaves_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.html").write_text("before")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ResourceError, match=r"page\.html' cannot be written: the disk is full"):
        write_text(tmp_path / "page.html", "after")
    assert [path.read_text() for path in everything(tmp_path)] == ["before"]


def test_a_single_file_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingError, match="file' is a file, not a folder"):
        check_writable_file(tmp_path / "file" / "page.html")
