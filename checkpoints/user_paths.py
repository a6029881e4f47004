"""Paths given by a user on the command line or in a recipe."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import SettingError


def user_path(words: str | Path) -> Path:
    """Return the path, with a leading ``~`` expanded. It need not exist.

    Raises:
        SettingError: the system cannot have a file of that name, or access is denied.
    """
    try:
        path = Path(os.path.expanduser(words))
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError) as error:  # ValueError: a null character, half a surrogate pair
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"path {str(words)!r} cannot be used: {reason}") from None
    return path
