"""A GGUF model in several files, as ``llama-gguf-split`` writes them.

Files are named ``NAME-00001-of-00003.gguf``; the keys are in the first, which may hold no tensors.
llama.cpp opens them by the name of the first. transformers reads one file, so for it they are
joined: the data of each part is copied as it is, and the offsets of its tensors are moved.
"""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

from .gguf_head import FileHead, header_bytes, read_file_head, read_head, whole_keys

_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_COPIED_BYTES = 16 << 20  # at a time


def parts_of(name: str) -> list[str]:
    """The names of all files of the model that a file belongs to by its own name, in order."""
    found = _NAME.fullmatch(name)
    count = int(found["count"]) if found else 1
    if found is None or not 1 <= int(found["number"]) <= count:
        return [name]
    return [f"{found['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def is_split(path: Path) -> bool:
    """Whether a file's header names it as one of several; False for a damaged file."""
    try:
        return read_file_head(path).split_count > 1
    except (ValueError, OSError):
        return False


def join_parts(paths: Sequence[Path], target: Path) -> None:
    """Write the parts of a model, in their order, as one file.

    Raises:
        ValueError: as `read_head`.
        OSError: the disk is full.
    """
    read_head(*paths)
    heads = [read_file_head(path, whole=True) for path in paths]
    first = heads[0]
    starts, entries = _placed(paths, heads, first.alignment)
    head = header_bytes(first.version, len(entries), whole_keys(first)) + b"".join(entries)
    begin = len(head) + -len(head) % first.alignment
    with target.open("wb") as joined:
        joined.write(head)
        for path, part, start in zip(paths, heads, starts, strict=True):
            joined.seek(begin + start)
            with path.open("rb") as file:
                file.seek(part.data_start)
                shutil.copyfileobj(file, joined, _COPIED_BYTES)


def _placed(
    paths: Sequence[Path], heads: Sequence[FileHead], alignment: int
) -> tuple[list[int], list[bytes]]:
    """Where the data of each part begins among all data, and the entries of all tensors."""
    starts, entries, start = [], [], 0
    for path, head in zip(paths, heads, strict=True):
        starts.append(start)
        for entry, offset in zip(head.tensors.values(), head.offsets, strict=True):
            entries.append(entry + struct.pack("<Q", start + offset))
        start += max(0, path.stat().st_size - head.data_start)
        start += -start % alignment
    return starts, entries
