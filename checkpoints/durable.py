"""Files a crash leaves whole or not at all: written aside, synced, renamed, the folder synced."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path


def publish(path: Path, data: bytes) -> None:
    """Give a file its content in one step, replacing what it held."""
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
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rename_synced(aside: Path, path: Path) -> None:
    """Give a finished file its name, content and name both forced to the disk."""
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(aside, path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
