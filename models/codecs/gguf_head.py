"""The head of a GGUF file without its vocabulary: all that a config is made from.

Tokens and merges are most of what stands before the weights, and reading them one by one takes
seconds where the rest takes none.

It is read before anybody else is asked. The gguf package does not notice that a file has ended: of
a list as long as a damaged file may say it makes entries until there is no more memory. So does
transformers of as many layers, of each of which some configs list what it is.
"""

from __future__ import annotations

import mmap
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_LAYOUTS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_LONGEST = 1024  # of a list that is kept: as long as any that has a number for each layer
_KEPT = 2  # entries of one that is longer
_TOKENS = "tokenizer.ggml.tokens"
_DEPTH = ".block_count"
_ALIGNMENT = 32
_FLOAT32 = 0


@dataclass(frozen=True)
class Head:
    """What stands before the weights.

    Attributes:
        data: a GGUF file of the same keys and tensor names, long lists cut short, each tensor one
            value.
        num_tokens: entries of the vocabulary; None where there is none.
        says_size: whether a key of its own says how many, which need not be as many.
    """

    data: bytes
    num_tokens: int | None
    says_size: bool

    @contextmanager
    def as_file(self) -> Iterator[Path]:
        """That file, for as long as the context lasts."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "head.gguf"
            path.write_bytes(self.data)
            yield path


def gguf_config(path: Path) -> PreTrainedConfig:
    """The config transformers makes of a GGUF file, whose vocabulary is only counted for it.

    Raises:
        ValueError: as `read_head`; transformers raises more, of many kinds.
    """
    head = read_head(path)
    with head.as_file() as short:
        config: PreTrainedConfig = AutoConfig.from_pretrained(short.parent, gguf_file=short.name)
    if head.num_tokens is not None and not head.says_size:
        config.vocab_size = head.num_tokens
    return config


def read_head(path: Path) -> Head:
    """The head of a little-endian file of version 2 or 3.

    Raises:
        ValueError: it is another, is damaged, or says that there are more layers than tensors.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return _Reader(whole).head()


class _Reader:
    """A place in the file, moving on with all that is read."""

    def __init__(self, whole: mmap.mmap) -> None:
        self._whole, self._place = whole, 0
        self._num_tokens: int | None = None
        self._names: list[str] = []

    def head(self) -> Head:
        magic = self._bytes(len(_MAGIC))
        version, num_tensors, num_keys = self._numbers("<IQQ")
        if magic != _MAGIC:
            raise ValueError("it does not begin as GGUF files do")
        if version not in _VERSIONS:
            raise ValueError(f"its version is {version}, and 2 and 3, little-endian, are read")
        keys = b"".join(self._key(num_tensors) for _ in range(num_keys))
        tensors = b"".join(self._tensor() for _ in range(num_tensors))
        head = _MAGIC + struct.pack("<IQQ", version, num_tensors, num_keys) + keys + tensors
        data = head + bytes(-len(head) % _ALIGNMENT) + bytes(_ALIGNMENT)
        sized = any(name.endswith(".vocab_size") for name in self._names)
        return Head(data, self._num_tokens, sized)

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

    def _key(self, num_tensors: int) -> bytes:
        """One key with its value as they stand, a long list cut short."""
        start = self._place
        name = self._string().decode("utf-8")
        (kind,) = self._numbers("<I")
        self._names.append(name)
        if kind == _ARRAY:
            return self._whole[start : self._place] + self._list(name)
        if name.endswith(_DEPTH) and kind in _LAYOUTS:
            (layers,) = self._numbers(f"<{_LAYOUTS[kind]}")
            if layers > num_tensors:
                raise ValueError(f"{name} is {layers}, of {num_tensors} tensors")
        else:
            self._skip(kind)
        return self._whole[start : self._place]

    def _list(self, name: str) -> bytes:
        kind, length = self._numbers("<IQ")
        kept = length if length <= _LONGEST else _KEPT
        start = self._place
        self._skip(kind, kept)
        entries = self._whole[start : self._place]
        self._skip(kind, length - kept)
        if name == _TOKENS:
            self._num_tokens = length
        return struct.pack("<IQ", kind, kept) + entries

    def _skip(self, kind: int, count: int = 1) -> None:
        """Step over values of a kind."""
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

    def _tensor(self) -> bytes:
        """A tensor's name, and one float32 value in place of its own."""
        name = self._string()
        (num_dimensions,) = self._numbers("<I")
        self._step(8 * num_dimensions + 4 + 8)
        length = struct.pack("<Q", len(name))
        return length + name + struct.pack("<IQIQ", 1, 1, _FLOAT32, 0)
