"""Publish a model folder, or a single GGUF file, atomically.

Everything is written to a private folder beside the target and renamed at the end. An existing
target is replaced only if birdbone wrote it or the user forces it, and only once the new one is
complete.
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
from .output_path import staging_folder, unwritable

PROVENANCE = "birdbone.json"
"""The provenance file; a folder with it was written by birdbone."""

REPORT = "report.html"
"""The page about a saved model, written from its provenance file after it."""

BENCH = "bench.json"
"""Speed and memory of a saved model by runtime, measured after it was saved."""

RECORDS_SUFFIX = ".birdbone"
"""Suffix of the folder with the records of a single GGUF file."""


def records_of(file: Path) -> Path:
    """The folder next to a GGUF file with its model card, birdbone.json and proof.json."""
    return file.with_name(f"{file.name}{RECORDS_SUFFIX}")


def path_of(target: Path, name: str) -> Path:
    """The path of one file of a saved model; ``target`` is its folder or its GGUF file."""
    if not target.is_file():
        return target / name
    return target if name == target.name else records_of(target) / name


def check_file_target(path: str | Path, force: bool = False) -> Path:
    """The absolute path of a GGUF file, if it may be written there with its records beside it.

    Raises:
        SettingError: ``path`` is a folder, or a file or records folder that birdbone did not write
            is in the way and ``force`` is off.
    """
    target = user_path(path).resolve()
    records = records_of(target)
    if target.is_dir():
        raise SettingError(
            f"output '{path}' is a folder; give the name of a file that does not exist yet, or a "
            f"folder name that does not end in '{target.suffix}'"
        )
    taken = [each for each in (target, records) if each.exists()]
    if taken and not force and not is_ours(records):
        raise SettingError(
            f"output '{taken[0].name}' exists and was not made by birdbone; "
            f"give another name, or force=True (--force) to replace it"
        )
    return target


def check_target(path: str | Path, force: bool = False) -> Path:
    """The absolute target, if a model may be written there.

    Raises:
        SettingError: the target is a file, a folder that birdbone did not write while ``force`` is
            off, or a folder that contains the working or the home directory.
    """
    target = user_path(path).resolve()
    if target.exists():
        _check_replaceable(target, path, force)
    return target


def _check_replaceable(target: Path, path: str | Path, force: bool) -> None:
    if not target.is_dir():
        raise SettingError(f"output '{path}' is a file; give a folder")
    if not any(target.iterdir()):
        return
    for held in (Path.cwd(), Path.home()):
        if held.resolve().is_relative_to(target):
            raise SettingError(f"output '{path}' holds {held}; give a folder of its own")
    if not force and not is_ours(target):
        raise SettingError(
            f"output folder '{path}' exists and was not made by birdbone; "
            f"give another, or force=True (--force) to replace it"
        )


def is_ours(folder: Path) -> bool:
    """Whether birdbone wrote the folder, judged by its provenance file."""
    try:
        found = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "birdbone" in found


def check_disk(path: str | Path, num_bytes: int) -> None:
    """Check that the file system of ``path`` has enough free space.

    Raises:
        ResourceError: there is too little; the message has the needed and the free bytes.
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
    """A temporary folder next to the target, removed at the end unless `publish` renamed it.

    Raises:
        SettingError, ResourceError: it cannot be made, with the reason.
    """
    folder = staging_folder(target, purpose)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        raise unwritable(target, error) from error
    try:
        yield folder
    finally:
        if folder.exists():
            shutil.rmtree(folder)


def publish(folder: Path, target: Path) -> None:
    """Rename a finished folder to the target, replacing the previous one.

    Raises:
        OSError: the rename failed; the old folder was restored.
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


def publish_file(folder: Path, target: Path) -> None:
    """Publish the file ``target.name`` of a finished folder, and the other files as its records.

    The records are published first, so that the file always has records next to it. If the process
    stops in between, a later run may replace them.
    """
    staged = target.with_name(f".{target.name}.staged-{secrets.token_hex(4)}")
    _open_as_usual(folder)
    os.rename(folder / target.name, staged)
    try:
        publish(folder, records_of(target))
        os.replace(staged, target)
    finally:
        staged.unlink(missing_ok=True)
    _sync_folder(target.parent)


def set_aside(folder: Path, target: Path) -> Path | None:
    """Move a refused folder to ``TARGET.refused``, replacing an earlier one.

    Returns:
        The new path; None if a folder that birdbone did not write has that name.
    """
    aside = target.with_name(f"{target.name}.refused")
    if aside.is_symlink() or (aside.exists() and not is_ours(aside)):
        return None
    publish(folder, aside)
    return aside


def files_of(folder: Path) -> dict[str, Path]:
    """Every file of a folder and its sub-folders by relative name, such as "adapter/x.json".

    Links to folders are not followed and count as files.
    """
    paths = [path for path in folder.rglob("*") if path.is_file() or path.is_symlink()]
    return {path.relative_to(folder).as_posix(): path for path in sorted(paths)}


def _open_as_usual(folder: Path) -> None:
    """Set the usual permissions; safetensors writes files that only the owner can read."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _sync_folder(folder: Path) -> None:
    """Sync the folder's entries to the disk, if the system supports it."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
