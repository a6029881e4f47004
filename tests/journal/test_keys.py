"""The source hash covers sub-packages, and links in sub-packages count as bird-bone's own."""

from pathlib import Path
from typing import Any

import pytest

from birdbone.journal import keys


def package(folder: Path) -> Path:
    nested = folder / "links" / "pruning"
    nested.mkdir(parents=True)
    (folder / "links" / "prune.py").write_text("one = 1\n")
    (nested / "masks.py").write_text("two = 2\n")
    return folder


def test_source_hash_is_stable(tmp_path: Path) -> None:
    assert keys.source_hash(package(tmp_path / "a")) == keys.source_hash(package(tmp_path / "b"))


@pytest.mark.parametrize("name", ["links/prune.py", "links/pruning/masks.py"])
def test_source_hash_covers_every_depth(tmp_path: Path, name: str) -> None:
    folder = package(tmp_path)
    before = keys.source_hash(folder)
    (folder / name).write_text("other = 3\n")
    assert keys.source_hash(folder) != before


def test_source_hash_tells_moved_code_apart(tmp_path: Path) -> None:
    folder = package(tmp_path)
    before = keys.source_hash(folder)
    (folder / "links" / "pruning" / "masks.py").rename(folder / "links" / "masks.py")
    assert keys.source_hash(folder) != before


@pytest.mark.parametrize(
    ("room", "own"), [("links", True), ("links/wave", True), ("tests", False), ("examples", False)]
)
def test_only_code_of_the_hashed_folders_is_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: str, own: bool
) -> None:
    source = tmp_path / room / "mine.py"
    source.parent.mkdir(parents=True)
    source.write_text("async def mine(ctx): ...\n")
    spaces: dict[str, Any] = {}
    exec(compile(source.read_text(), str(source), "exec"), spaces)

    class Factory:
        function = staticmethod(spaces["mine"])

    class Step:
        factory = Factory

    monkeypatch.setattr(keys, "_PACKAGE", tmp_path.resolve())
    assert (keys._foreign_code(Step()) is None) is own  # type: ignore[arg-type]
