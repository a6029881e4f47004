"""What the runtimes were seen to load of compressed-tensors folders (README, docs/formats.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Runtime = Literal["transformers", "vllm", "llama.cpp"]

_BLOCK = 32  # columns of a block of ggml


@dataclass(frozen=True)
class Loads:
    """What one runtime loads.

    Attributes:
        bits: bits of integers.
        group_sizes: group sizes; None for any.
        multiple: what group sizes must be multiples of.
        mixed: whether linears may have different grids.
        dense: whether some linears may stay as they are beside integers.
        embedding: whether the embedding may have 8 bits.
    """

    bits: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    group_sizes: tuple[int, ...] | None = None
    multiple: int = 1
    mixed: bool = True
    dense: bool = True
    embedding: bool = True

    def takes(self, bits: int, group_width: int, *, whole_row: bool) -> bool:
        """Whether it loads a linear on this grid.

        Args:
            group_width: columns that share a scale.
            whole_row: whether that is stored as one scale per row.
        """
        if bits not in self.bits or group_width % self.multiple:
            return False
        return self.group_sizes is None or (not whole_row and group_width in self.group_sizes)


RUNTIMES: Mapping[Runtime, Loads] = MappingProxyType(
    {
        "transformers": Loads(),
        "vllm": Loads(bits=(4,), group_sizes=(32, 64), mixed=False, dense=False, embedding=False),
        # Exported to GGUF without rounding again, as Q4_0, Q5_0 and Q8_0.
        "llama.cpp": Loads(multiple=_BLOCK, dense=False),
    }
)


@dataclass(frozen=True)
class Limits:
    """What all of several runtimes load."""

    runtimes: tuple[Runtime, ...]

    def takes(self, bits: int, group_size: int | None, width: int) -> bool:
        """Whether a linear with rows of ``width`` columns may be on this grid."""
        wide = width if group_size is None else group_size
        return all(each.takes(bits, wide, whole_row=group_size is None) for each in self._loads())

    @property
    def mixed(self) -> bool:
        """Whether linears may have different grids."""
        return all(each.mixed for each in self._loads())

    @property
    def dense(self) -> bool:
        """Whether some linears may stay as they are."""
        return all(each.dense for each in self._loads())

    @property
    def embedding(self) -> bool:
        """Whether the embedding may have 8 bits."""
        return all(each.embedding for each in self._loads())

    def _loads(self) -> Iterable[Loads]:
        return [RUNTIMES[name] for name in self.runtimes]

    def __str__(self) -> str:
        return ", ".join(self.runtimes)
