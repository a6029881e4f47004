"""File system errors turned into errors that name the run folder and the fix."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..errors import BirdboneError, ResourceError, RunFolderError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def writing_in(folder: Path) -> Iterator[None]:
    """Context manager around code that writes to ``folder``.

    Raises:
        ResourceError: the disk or a quota is full.
        RunFolderError: any other error of the file system.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _refusal(folder, error) from error


def _refusal(folder: Path, error: OSError | SafetensorError) -> BirdboneError:
    if _number(error) in _FULL:
        return ResourceError(
            f"the disk of run folder '{folder}' is full; free some space (birdbone gc helps), then "
            f"run the same command again: finished links are not repeated"
        )
    return RunFolderError(
        f"run folder '{folder}' cannot be written ({error}); make it writable, or give another path"
    )


def _number(error: OSError | SafetensorError) -> int | None:
    """Return the system's error number; safetensors states it only in the message."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None
