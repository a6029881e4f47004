"""The keys of a GGUF header that describe the model, checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...checkpoints.gguf_package import require_gguf
from .gguf_head import Head

_ARCHITECTURE = "general.architecture"


@dataclass(frozen=True)
class Keys:
    """The keys of one architecture.

    Attributes:
        arch: llama.cpp's name of the architecture.
        own: values of the keys that begin with it, without it: ``attention.key_length``.
        tensors: names of all tensors.
    """

    arch: str
    own: Mapping[str, Any]
    tensors: tuple[str, ...]

    def number(self, name: str) -> float | None:
        """The value of a key; None if there is none.

        Raises:
            ValueError: it is no number.
        """
        value = self.own.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{self.arch}.{name} is no number")
        return value

    def integer(self, name: str) -> int | None:
        """The value of a key; None if there is none, or a list with an entry per layer.

        Raises:
            ValueError: it is neither.
        """
        value = self.own.get(name)
        if isinstance(value, list):
            return None
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{self.arch}.{name} is no whole number")
        return value


def keys_of(head: Head) -> Keys:
    """The keys of a header.

    Raises:
        ValueError: it names no architecture.
        MissingExtraError: the package gguf is not installed.
    """
    with head.as_file() as short:
        reader = require_gguf().GGUFReader(short)
    if _ARCHITECTURE not in reader.fields:
        raise ValueError(f"its header has no {_ARCHITECTURE}")
    arch = str(reader.fields[_ARCHITECTURE].contents())
    own = {
        name.removeprefix(f"{arch}."): field.contents()
        for name, field in reader.fields.items()
        if name.startswith(f"{arch}.")
    }
    return Keys(arch, own, tuple(tensor.name for tensor in reader.tensors))
