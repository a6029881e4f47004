"""Read the header of a GGUF file without its vocabulary.

Tokens and merges are most of the header, and parsing them one by one takes seconds.

This parser runs before any other, because it stops at the end of the file. The gguf package does
not: for a list as long as a damaged file states, it allocates entries until memory runs out.
transformers does the same for a stated number of layers.
"""

from __future__ import annotations

import math
import mmap
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_LAYOUTS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_INTEGERS = (0, 1, 2, 3, 4, 5, 10, 11)
_EVERY = 1 << 63
_LONGEST = 1024  # entries of a list that is kept whole; lists with one entry per layer fit
_KEPT = 2  # entries kept of a longer list
_TOKENS = "tokenizer.ggml.tokens"
_DEPTH = ".block_count"
_SPLIT = "split."  # keys of a model in several files
_ALIGNMENT_KEY = "general.alignment"
_ALIGNMENT, _WIDEST = 32, 1 << 20
_FLOAT32 = 0


@dataclass(frozen=True)
class Head:
    """The header of a model.

    Attributes:
        data: a GGUF file of the same keys and tensor names, with long lists truncated and one value
            per tensor.
        num_tokens: size of the vocabulary; None without one.
        says_size: whether a separate key states a vocabulary size, which may differ.
    """

    data: bytes
    num_tokens: int | None
    says_size: bool

    @contextmanager
    def as_file(self) -> Iterator[Path]:
        """The data as a temporary file."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "head.gguf"
            path.write_bytes(self.data)
            yield path


@dataclass
class FileHead:
    """The header of one file.

    Attributes:
        version: version of the format, 2 or 3.
        keys, tensors: raw entries in order; long lists are truncated unless ``whole``.
        offsets: offset of each tensor in the file's data, in bytes.
        numbers: integer keys by name: sizes, and the file's index in a split model.
        num_tokens: size of the vocabulary; None without one.
        data_start: offset of the data in the file, in bytes.
    """

    version: int
    keys: dict[str, bytes] = field(default_factory=dict)
    tensors: dict[str, bytes] = field(default_factory=dict)
    offsets: list[int] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    num_tokens: int | None = None
    data_start: int = 0

    @property
    def alignment(self) -> int:
        """Alignment of tensors in bytes."""
        return self.numbers.get(_ALIGNMENT_KEY) or _ALIGNMENT

    @property
    def split_count(self) -> int:
        """Number of files the model is split into."""
        return max(1, self.numbers.get(f"{_SPLIT}count", 1))


def read_head(*paths: Path) -> Head:
    """The header of a model: little-endian files of version 2 or 3.

    Args:
        paths: the file, or all files of a split model in order; the first contains the keys.

    Raises:
        ValueError: another version, a damaged file, more layers than tensors, or files that are not
            the parts of one model.
    """
    heads = [read_file_head(path) for path in paths]
    _check_split(paths, heads)
    names = [name for head in heads for name in head.tensors]
    first = heads[0]
    for name, layers in first.numbers.items():
        if name.endswith(_DEPTH) and layers > len(names):
            raise ValueError(f"{name} is {layers}, of {len(names)} tensors")
    # The copy is aligned by default, whatever the file is.
    keys = {name: raw for name, raw in whole_keys(first).items() if name != _ALIGNMENT_KEY}
    tensors = b"".join(_short_tensor(name) for name in names)
    head = header_bytes(first.version, len(names), keys) + tensors
    data = head + bytes(-len(head) % _ALIGNMENT) + bytes(_ALIGNMENT)
    sized = any(name.endswith(".vocab_size") for name in keys)
    return Head(data, first.num_tokens, sized)


def read_file_head(path: Path, *, whole: bool = False) -> FileHead:
    """The header of one file.

    Args:
        whole: do not truncate long lists.

    Raises:
        ValueError: not a little-endian file of version 2 or 3, or damaged.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Reader(data, _EVERY if whole else _LONGEST).head()


def read_floats(paths: Sequence[Path], name: str) -> list[float]:
    """The values of a short float32 tensor, in the one of the files that has it.

    Raises:
        ValueError: there is none, or one of another type, too long or beyond the end of the file.
    """
    for path in paths:
        head = read_file_head(path)
        if name in head.tensors:
            return _floats(path, head, name)
    raise ValueError(f"it has no tensor {name}")


def _floats(path: Path, head: FileHead, name: str) -> list[float]:
    entry = head.tensors[name][8 + len(name.encode()) :]
    (num_dimensions,) = struct.unpack_from("<I", entry)
    *shape, kind = struct.unpack_from(f"<{num_dimensions}QI", entry, 4)
    count = math.prod(shape)
    if kind != _FLOAT32 or not 0 < count <= _LONGEST:
        raise ValueError(f"tensor {name} has {count} values of type {kind}, and is not read")
    start = head.data_start + head.offsets[list(head.tensors).index(name)]
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(4 * count)
    values = list(struct.unpack(f"<{count}f", data)) if len(data) == 4 * count else [math.nan]
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"tensor {name} holds values that are no positive numbers")
    return values


def whole_keys(first: FileHead) -> dict[str, bytes]:
    """The keys of a model without those of splitting."""
    return {name: raw for name, raw in first.keys.items() if not name.startswith(_SPLIT)}


def header_bytes(version: int, num_tensors: int, keys: dict[str, bytes]) -> bytes:
    """The beginning of a file with these keys; tensor entries follow it."""
    counts = struct.pack("<IQQ", version, num_tensors, len(keys))
    return _MAGIC + counts + b"".join(keys.values())


def _check_split(paths: Sequence[Path], heads: Sequence[FileHead]) -> None:
    """Check that the files are all parts of one model, in order."""
    for place, (path, head) in enumerate(zip(paths, heads, strict=True)):
        number = head.numbers.get(f"{_SPLIT}no", 0)
        if head.split_count != len(paths) or number != place:
            named = f"NAME-{number + 1:05}-of-{head.split_count:05}.gguf"
            raise ValueError(
                f"{path.name} is part {number + 1} of {head.split_count} by its header; name it "
                f"{named} and put it beside the others, whose names differ in their number alone"
            )
    names = [name for head in heads for name in head.tensors]
    stated = heads[0].numbers.get(f"{_SPLIT}tensors.count", len(names))
    if len(set(names)) != len(names) or stated != len(names):
        raise ValueError(
            f"its {len(paths)} parts hold {len(set(names))} different tensors, {len(names)} with "
            f"repeats, where {stated} are expected"
        )


def _short_tensor(name: str) -> bytes:
    """A tensor entry with one float32 value."""
    raw = name.encode()
    return struct.pack("<Q", len(raw)) + raw + struct.pack("<IQIQ", 1, 1, _FLOAT32, 0)


class _Reader:
    """Sequential reader of a file."""

    def __init__(self, whole: mmap.mmap, longest: int) -> None:
        self._whole, self._place, self._longest = whole, 0, longest

    def head(self) -> FileHead:
        magic = self._bytes(len(_MAGIC))
        version, num_tensors, num_keys = self._numbers("<IQQ")
        if magic != _MAGIC:
            raise ValueError("it does not begin as GGUF files do")
        if version not in _VERSIONS:
            raise ValueError(f"its version is {version}, and 2 and 3, little-endian, are read")
        head = FileHead(version)
        for _ in range(num_keys):
            self._key(head)
        for _ in range(num_tensors):
            self._tensor(head)
        alignment = head.alignment
        if not 0 < alignment <= _WIDEST or alignment & (alignment - 1):
            raise ValueError(f"{_ALIGNMENT_KEY} is {alignment}, and powers of two are read")
        head.data_start = self._place + -self._place % alignment
        return head

    def _numbers(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))

    def _bytes(self, count: int) -> bytes:
        self._step(count)
        return self._whole[self._place - count : self._place]

    def _step(self, count: int) -> None:
        if count > len(self._whole) - self._place:
            raise ValueError("it ends within its head")
        self._place += count

    def _string(self) -> bytes:
        (length,) = self._numbers("<Q")
        return self._bytes(length)

    def _key(self, head: FileHead) -> None:
        """Read one raw key with its value; truncate a long list."""
        start = self._place
        name = self._string().decode("utf-8")
        (kind,) = self._numbers("<I")
        if name in head.keys:
            raise ValueError(f"it has the key {name} twice")
        if kind == _ARRAY:
            raw = self._whole[start : self._place]
            head.keys[name] = raw + self._list(head, name)
            return
        value = self._place
        self._skip(kind)
        head.keys[name] = self._whole[start : self._place]
        if kind in _INTEGERS:
            raw = self._whole[value : self._place]
            (head.numbers[name],) = struct.unpack(f"<{_LAYOUTS[kind]}", raw)

    def _list(self, head: FileHead, name: str) -> bytes:
        kind, length = self._numbers("<IQ")
        kept = length if length <= self._longest else _KEPT
        start = self._place
        self._skip(kind, kept)
        entries = self._whole[start : self._place]
        self._skip(kind, length - kept)
        if name == _TOKENS:
            head.num_tokens = length
        return struct.pack("<IQ", kind, kept) + entries

    def _skip(self, kind: int, count: int = 1) -> None:
        """Skip values of a type."""
        if kind in _LAYOUTS:
            self._step(struct.calcsize(f"<{_LAYOUTS[kind]}") * count)
        elif kind == _STRING:
            for _ in range(count):
                (length,) = self._numbers("<Q")
                self._step(length)
        elif kind == _ARRAY:
            for _ in range(count):
                inner, length = self._numbers("<IQ")
                self._skip(inner, length)
        else:
            raise ValueError(f"type {kind} is not read")

    def _tensor(self, head: FileHead) -> None:
        """Read a tensor entry; its offset is kept separately."""
        start = self._place
        name = self._string().decode("utf-8")
        (num_dimensions,) = self._numbers("<I")
        self._step(8 * num_dimensions + 4)
        if name in head.tensors:
            raise ValueError(f"it has the tensor {name} twice")
        head.tensors[name] = self._whole[start : self._place]
        head.offsets += self._numbers("<Q")
