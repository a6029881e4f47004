"""The layout of a safetensors file, known before any value is: its header, offsets and size.

A file is 8 bytes with the length of the header, the header in JSON, padded with spaces to a
multiple of 8, and the values. Tensors are ordered by dtype, then by name. The header is, byte for
byte, the one safetensors writes for at most one entry of metadata; it writes several in no
particular order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError
from .tensors import DTYPES, TensorRef

_ALIGNMENT = 8
# The order in which safetensors 0.8 writes dtypes.
_ORDER = (
    *("U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "F8_E5M2FNUZ"),
    *("F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"),
)
_RANK = {DTYPES[name]: (rank, name) for rank, name in enumerate(_ORDER)}


class StoredTensor(NamedTuple):
    """Dtype and shape of a tensor in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor | TensorRef) -> StoredTensor:
        """Those of a tensor, or of what a reference loads."""
        return cls(tensor.dtype, tuple(tensor.shape))

    @property
    def num_bytes(self) -> int:
        """Bytes of the values."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """Where everything lies in a file.

    Attributes:
        head: the length of the header and the header, padding included.
        starts: of each tensor, the offset of its first byte in the file.
        num_bytes: size of the file.
    """

    head: bytes
    starts: Mapping[str, int]
    num_bytes: int


def safetensors_layout(
    tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str] | None = None
) -> Layout:
    """Return the layout of a file that holds the tensors.

    Raises:
        CheckpointError: a dtype that safetensors does not hold.
    """
    for name, each in tensors.items():
        if each.dtype not in _RANK:
            raise CheckpointError(f"tensor '{name}' has dtype {each.dtype}, which cannot be saved")
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offsets, end = {}, 0
    for name in sorted(tensors, key=lambda name: (_RANK[tensors[name].dtype][0], name.encode())):
        each = tensors[name]
        offsets[name], end = end, end + each.num_bytes
        header[name] = {
            "dtype": _RANK[each.dtype][1],
            "shape": list(each.shape),
            "data_offsets": [offsets[name], end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    head = len(text).to_bytes(8, "little") + text
    return Layout(head, {name: len(head) + at for name, at in offsets.items()}, len(head) + end)


def safetensors_bytes(
    tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str] | None = None
) -> int:
    """Bytes of a file that holds the tensors.

    Raises:
        CheckpointError: a dtype that safetensors does not hold.
    """
    return safetensors_layout(tensors, metadata).num_bytes
