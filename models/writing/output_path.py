"""Whether something can be written at a path, found out by making a folder there and removing it.

Permissions alone do not say: a parent may be a file, a disk read-only or full, a name too long. So
the folder that writing would begin with is made where it will be, holds one small file for a
moment, and is removed with every parent that was made for it.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from ...checkpoints.durable import rename_synced
from ...checkpoints.user_paths import user_path
from ...errors import BirdboneError, ResourceError, SettingError

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_REASONS = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "writing there is not permitted",
    errno.EPERM: "writing there is not permitted",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its links lead in a circle",
}
_BLOCK = 4096  # bytes; a full disk may still make folders


def staging_folder(target: Path, purpose: str) -> Path:
    """A new name beside the target, for what is written before it gets the target's name."""
    return target.with_name(f".{target.name}.{purpose}-{secrets.token_hex(4)}")


def check_writable(target: Path, shown: str | Path | None = None) -> None:
    """Make and remove the folder that writing ``target`` begins with.

    Args:
        target: an absolute path.
        shown: what the message calls it.

    Raises:
        SettingError: nothing can be written there, with the reason.
        ResourceError: the disk or the quota is full.
    """
    made: list[Path] = []
    try:
        for parent in reversed(target.parents):
            if not parent.is_dir():
                parent.mkdir()
                made.append(parent)
        folder = staging_folder(target, "partial")
        folder.mkdir()
        made.append(folder)
        _write_block(folder / "room")
    except OSError as error:
        raise unwritable(target if shown is None else shown, error) from error
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # another process has written to it
                folder.rmdir()


def check_writable_file(path: str | Path) -> None:
    """See that a single file can be written at a path, in place of one that is there.

    Raises:
        SettingError: it is a folder, or cannot be written.
        ResourceError: the disk or the quota is full.
    """
    target = user_path(path).resolve()
    if target.is_dir():
        raise SettingError(f"output '{path}' is a folder; give the name of a file")
    if not target.parent.exists():
        raise SettingError(
            f"output '{path}' cannot be written: there is no folder '{target.parent}'; make it, "
            f"or give another path"
        )
    check_writable(target, path)


def write_text(path: str | Path, text: str) -> None:
    """Write a single file, or leave the one that is there as it is.

    Raises:
        SettingError, ResourceError: the system refused to write it, with the reason.
    """
    target = user_path(path).resolve()
    aside = staging_folder(target, "partial")
    try:
        aside.write_text(text, encoding="utf-8")
        rename_synced(aside, target)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def unwritable(path: str | Path, error: OSError) -> BirdboneError:
    """The error for an output that the system refused to write."""
    if error.errno in _FULL:
        return ResourceError(
            f"output '{path}' cannot be written: {_FULL[error.errno]}; free some, or give a path "
            f"on another disk"
        )
    return SettingError(
        f"output '{path}' cannot be written: {_reason(error)}; give a path that can"
    )


def _reason(error: OSError) -> str:
    parent = _file_above(Path(str(error.filename))) if error.filename else None
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and parent is not None:
        return f"'{parent}' is a file, not a folder"
    return _REASONS.get(error.errno or 0) or (error.strerror or str(error)).lower()


def _file_above(path: Path) -> Path | None:
    """The part of a path that is a file where a folder is needed."""
    for each in (path, *path.parents):
        with suppress(OSError):
            if each.exists() and not each.is_dir():
                return each
    return None


def _write_block(path: Path) -> None:
    try:
        with path.open("wb") as file:
            file.write(bytes(_BLOCK))
            file.flush()
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)
