"""One process at a time: a lock the kernel holds for the process and drops when it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ..errors import RunFolderError


class Lock:
    """An exclusive lock on a folder, held from the moment it is made until `release`.

    Raises:
        RunFolderError: another process, named by its id, holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / "lock"
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._handle, 32, 0).decode(errors="replace").strip()
            os.close(self._handle)
            raise RunFolderError(
                f"run folder '{folder}' is in use by process {holder or 'unknown'}; wait for it to "
                f"end or stop it, or give another folder"
            ) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def check(self) -> None:
        """See that the folder is still the one that was locked.

        Raises:
            RunFolderError: it was removed or replaced meanwhile.
        """
        held = os.fstat(self._handle)
        try:
            found = self._path.stat()
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino):
            raise RunFolderError(
                f"run folder '{self._folder}' was removed or replaced while it was in use, and "
                f"what it held is lost; run the same command again"
            )

    def release(self) -> None:
        """Let the next one in; a second time does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
