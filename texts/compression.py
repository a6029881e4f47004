"""Files that may be compressed, read through one function."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

from ..errors import DataError, MissingExtraError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""The endings of compressed files."""


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, decompressed where its name says that it is compressed.

    Raises:
        DataError: the file cannot be read, or is damaged; also while it is being read.
        MissingExtraError: it ends in .zst and the package that reads it is not installed.
    """
    try:
        with _open(path) as file:
            yield file
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"file '{path}' is damaged: {error}; fetch or write it again") from error
    except OSError as error:
        raise DataError(f"file '{path}' cannot be read: {error.strerror or error}") from error


def _open(path: Path) -> IO[bytes]:
    match path.suffix.lower():
        case ".gz":
            return cast(IO[bytes], gzip.open(path, "rb"))
        case ".bz2":
            return bz2.open(path, "rb")
        case ".xz":
            return lzma.open(path, "rb")
        case ".zst":
            return BytesIO(_zstandard(path))
    return path.open("rb")


def _zstandard(path: Path) -> bytes:
    """The whole content, frame by frame: a stream would end at a cut frame without a word."""
    module = _zstandard_module(path)
    content, parts = path.read_bytes(), []
    while content:
        frame: Any = module.ZstdDecompressor()
        frame = frame.decompressobj() if hasattr(frame, "decompressobj") else frame
        try:
            parts.append(frame.decompress(content))
        except module.ZstdError as error:
            raise EOFError(str(error)) from error
        if not frame.eof:
            raise EOFError("its last frame is cut off")
        content = frame.unused_data
    return b"".join(parts)


def _zstandard_module(path: Path) -> Any:
    """Python has one from 3.14 on; before, the package `zstandard` is one."""
    for name in ("compression.zstd", "zstandard"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise MissingExtraError(
        f"file '{path}' needs the package zstandard; install birdbone[zstd], or decompress the file"
    )
