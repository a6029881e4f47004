"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from birdbone.checkpoints.user_paths import user_path
from birdbone.errors import SettingError


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/models") == tmp_path / "models"


def test_there_need_not_be_anything(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("nothing", "no/folder/either", "file/below"):
        assert user_path(tmp_path / name) == tmp_path / name


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300])
def test_a_name_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match="cannot be used"):
        user_path(name)
