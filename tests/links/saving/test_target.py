"""Where save writes, asked before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from birdbone.errors import SettingError
from birdbone.links.saving.target import asked_format, check_output
from birdbone.models.writing.publishing import publish_file, records_of


def test_a_file_name_asks_for_gguf() -> None:
    assert asked_format("light.gguf", "auto") == "gguf"
    assert asked_format("light", "auto") == "auto"
    assert asked_format("light", "gguf") == "gguf"
    with pytest.raises(SettingError, match=r"the path names a GGUF file; set format to 'gguf'"):
        asked_format("light.gguf", "safetensors")


def test_a_file_of_others_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "light.gguf"
    assert check_output(str(target), "gguf", False) == target
    target.write_text("mine")
    with pytest.raises(SettingError, match=r"'light\.gguf' exists and was not made by birdbone"):
        check_output(str(target), "gguf", False)
    assert check_output(str(target), "gguf", True) == target
    records_of(target).mkdir()
    (records_of(target) / "birdbone.json").write_text('{"birdbone": "1"}')
    assert check_output(str(target), "gguf", False) == target


def test_a_folder_of_that_name_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "light.gguf").mkdir()
    with pytest.raises(SettingError, match="is a folder; give the name of a file"):
        check_output(str(tmp_path / "light.gguf"), "auto", True)


def test_records_are_published_before_the_file(tmp_path: Path) -> None:
    """So that a stop in between leaves something a later run may replace."""
    folder, target = tmp_path / "made", tmp_path / "light.gguf"
    folder.mkdir()
    (folder / "light.gguf").write_text("new")
    (folder / "birdbone.json").write_text('{"birdbone": "1"}')
    target.mkdir()  # the last rename fails
    with pytest.raises(OSError, match="directory"):
        publish_file(folder, target)
    assert [path.name for path in records_of(target).iterdir()] == ["birdbone.json"]
    target.rmdir()
    assert check_output(str(target), "gguf", False) == target
    assert sorted(each.name for each in tmp_path.iterdir()) == ["light.gguf.birdbone"]
