"""What a file system refuses, said as errors that name the folder and the mend."""

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
    """Around whatever writes there.

    Raises:
        ResourceError: the disk or a quota is full.
        RunFolderError: anything else the file system refuses.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _refusal(folder, error) from error


def _refusal(folder: Path, error: OSError | SafetensorError) -> BirdboneError:
    if _number(error) in _FULL:
        return ResourceError(
            f"the disk that holds run folder '{folder}' is full; free some (birdbone gc), then run "
            f"the same command again: finished links are kept"
        )
    return RunFolderError(
        f"run folder '{folder}' cannot be written ({error}); make it writable, or give another"
    )


def _number(error: OSError | SafetensorError) -> int | None:
    """safetensors tells the system's error number in words only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None
