"""Where save writes: a folder, or a single GGUF file with its records beside it."""

from __future__ import annotations

from pathlib import Path

from ...errors import SettingError
from ...models.writing.output_path import check_writable
from ...models.writing.publishing import check_file_target, check_target
from .formats import Format

_SUFFIX = ".gguf"


def is_file_name(path: str) -> bool:
    """Whether the path names a GGUF file rather than a folder."""
    return path.endswith(_SUFFIX)


def asked_format(path: str, format: Format) -> Format:
    """The format that the settings ask for: a path that ends in .gguf asks for gguf.

    Raises:
        SettingError: the path names a GGUF file and the format is another.
    """
    if not is_file_name(path) or format == "gguf":
        return format
    if format == "auto":
        return "gguf"
    raise SettingError(
        f"save(path='{path}', format='{format}'): the path names a GGUF file; set format to "
        f"'gguf', or give the name of a folder"
    )


def check_output(path: str, format: Format, force: bool, *, tries: bool = True) -> Path:
    """The absolute path of the folder or file, if it may be written.

    Args:
        tries: also make a folder there for a moment, as `check_writable` does.

    Raises:
        SettingError: something that birdbone did not write is there and ``force`` is off, or path
            and format do not go together, or nothing can be written there.
        ResourceError: the disk or the quota is full.
    """
    asked_format(path, format)
    target = check_file_target(path, force) if is_file_name(path) else check_target(path, force)
    if tries:
        check_writable(target, path)
    return target
