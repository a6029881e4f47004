"""Paths as people write them, on a command line or in a recipe, made paths of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import SettingError


def typed_path(words: str | Path) -> Path:
    """The path that is meant, a leading ``~`` made the home; there need not be anything.

    Raises:
        SettingError: the system can have nothing of that name, or does not let us look.
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
