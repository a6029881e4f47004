"""Open files that may be compressed."""

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
"""File suffixes of compressed files."""


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes; decompress it according to its suffix.

    Raises:
        DataError: the file cannot be read or is damaged; also raised while reading.
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
    """The content, frame by frame: the stream API would silently stop at a truncated frame."""
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
    """`compression.zstd` of Python 3.14 and later, or the package `zstandard`."""
    for name in ("compression.zstd", "zstandard"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise MissingExtraError(
        f"file '{path}' needs the package zstandard; install birdbone[zstd], or decompress the file"
    )
