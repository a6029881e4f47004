"""Compressed files are read like any other, and damaged ones are named."""

import bz2
import gzip
import lzma
import sys
from pathlib import Path

import pytest

from birdbone.errors import DataError, MissingExtraError
from birdbone.texts.compression import opened

TEXT = b"hollow bones\n" * 2000


def read(path: Path) -> bytes:
    with opened(path) as file:
        return file.read()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", TEXT),
        ("a.txt.gz", gzip.compress(TEXT)),
        ("a.txt.bz2", bz2.compress(TEXT)),
        ("a.txt.XZ", lzma.compress(TEXT)),
    ],
    ids=["plain", "gz", "bz2", "xz"],
)
def test_the_ending_says_how_a_file_is_compressed(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == TEXT


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.gz", gzip.compress(TEXT)[:-40]),
        ("foreign.gz", TEXT),
        ("flipped.gz", gzip.compress(TEXT)[:12] + b"\xff" * 40),
        ("cut.bz2", bz2.compress(TEXT)[:-10]),
        ("foreign.bz2", TEXT),
        ("cut.xz", lzma.compress(TEXT)[:-10]),
        ("foreign.xz", TEXT),
    ],
    ids=["cut-gz", "foreign-gz", "flipped-gz", "cut-bz2", "foreign-bz2", "cut-xz", "foreign-xz"],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}' (is damaged|cannot be read)"):
        read(tmp_path / name)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt' cannot be read: No such file"):
        read(tmp_path / "gone.txt")


def test_zstandard_is_read_where_its_package_is_installed(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    whole = zstandard.compress(TEXT)
    (tmp_path / "a.txt.zst").write_bytes(whole * 2)
    assert read(tmp_path / "a.txt.zst") == TEXT * 2
    for content in (b"not zstandard at all", whole[:-4], whole + whole[:20]):
        (tmp_path / "cut.zst").write_bytes(content)
        with pytest.raises(DataError, match=r"cut\.zst' is damaged"):
            read(tmp_path / "cut.zst")


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "a.zst").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=r"birdbone\[zstd\]"):
        read(tmp_path / "a.zst")
