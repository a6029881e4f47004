"""A model folder appears whole or not at all.

Everything is made in a private folder beside the target and renamed at the end. What stood there
before is replaced only if it is ours or the user forces it, and only once the new one is whole.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...checkpoints.user_paths import user_path
from ...errors import ResourceError, SettingError

PROVENANCE = "birdbone.json"
"""The file that makes a folder ours."""


def check_target(path: str | Path, force: bool = False) -> Path:
    """The absolute target, if a model may be written there.

    Raises:
        SettingError: there is something that is not ours and ``force`` is off; a file; a folder
            that holds the working or the home directory, which is never replaced.
    """
    target = user_path(path).resolve()
    if not target.exists():
        return target
    if not target.is_dir():
        raise SettingError(f"output '{path}' is a file; give a folder")
    if not any(target.iterdir()):
        return target
    for held in (Path.cwd(), Path.home()):
        if held.resolve().is_relative_to(target):
            raise SettingError(f"output '{path}' holds {held}; give a folder of its own")
    if not force and not is_ours(target):
        raise SettingError(
            f"output folder '{path}' exists and was not made by birdbone; "
            f"give another, or force=True (--force) to replace it"
        )
    return target


def is_ours(folder: Path) -> bool:
    """Whether birdbone wrote the folder: its provenance file says so."""
    try:
        found = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "birdbone" in found


def check_disk(path: str | Path, num_bytes: int) -> None:
    """See that the file system ``path`` will be on has room.

    Raises:
        ResourceError: it has not, with what is needed and what is free.
    """
    existing = user_path(path).resolve()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise ResourceError(
            f"output '{path}' needs {num_bytes / 1e9:.2f} GB of disk, {free / 1e9:.2f} GB are "
            f"free; free some, or give a folder on another disk"
        )


@contextmanager
def private_folder(target: Path, purpose: str) -> Iterator[Path]:
    """A new folder beside the target, gone at the end unless `publish` renamed it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.{purpose}-{secrets.token_hex(4)}")
    folder.mkdir()
    try:
        yield folder
    finally:
        if folder.exists():
            shutil.rmtree(folder)


def publish(folder: Path, target: Path) -> None:
    """Give a finished folder its name, replacing what stood there.

    Raises:
        OSError: the rename failed; the old folder is back in its place.
    """
    _open_as_usual(folder)
    _sync_folder(folder)
    if not target.exists():
        os.rename(folder, target)
    else:
        old = target.with_name(f".{target.name}.replaced-{secrets.token_hex(4)}")
        os.rename(target, old)
        try:
            os.rename(folder, target)
        except OSError:
            os.rename(old, target)
            raise
        shutil.rmtree(old)
    _sync_folder(target.parent)


def set_aside(folder: Path, target: Path) -> Path | None:
    """Keep a folder that was refused as ``TARGET.refused``, in place of one refused earlier.

    Returns:
        Where it is; None, and the folder left as it was, where something not ours has the name.
    """
    aside = target.with_name(f"{target.name}.refused")
    if aside.is_symlink() or (aside.exists() and not is_ours(aside)):
        return None
    publish(folder, aside)
    return aside


def files_of(folder: Path) -> dict[str, Path]:
    """Every file of a folder, and of folders in it, by its name there: "adapter/x.json".

    A link to a folder is not followed and counts as a file.
    """
    paths = [path for path in folder.rglob("*") if path.is_file() or path.is_symlink()]
    return {path.relative_to(folder).as_posix(): path for path in sorted(paths)}


def _open_as_usual(folder: Path) -> None:
    """Let others read what others may read here; safetensors writes for the owner alone."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _sync_folder(folder: Path) -> None:
    """Force the folder's own entries to the disk, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
