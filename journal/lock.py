"""A lock that allows one process at a time; the kernel releases it when the process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ..errors import RunFolderError


class Lock:
    """An exclusive lock on a folder, held from construction until `release`.

    Raises:
        RunFolderError: another process holds it; the message names the process.
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
                f"end, stop it, or give another folder"
            ) from None
        try:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)
        except OSError:  # such as a full disk
            self.release()
            raise

    def check(self) -> None:
        """Check that the folder is still the one that was locked.

        Raises:
            RunFolderError: it was removed or replaced.
        """
        held = os.fstat(self._handle)
        try:
            found = self._path.stat()
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino):
            raise RunFolderError(
                f"run folder '{self._folder}' was removed or replaced while it was in use, and its "
                f"content is lost; run the same command again"
            )

    def release(self) -> None:
        """Release the lock. Calling it again does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
