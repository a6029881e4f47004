"""Writing files so that a crash leaves either the whole new file or the old one.

The content goes to a temporary file, which is synced to disk and renamed; then the folder is
synced.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` in one atomic step, replacing what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        rename_synced(Path(aside), path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rename_synced(aside: Path, path: Path) -> None:
    """Rename a finished temporary file to ``path``, with content and name both synced to disk."""
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(aside, path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
