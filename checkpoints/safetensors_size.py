"""The size of a safetensors file before it is written, header included, to the byte.

A file is 8 bytes with the length of the header, the header in JSON, padded with spaces to a
multiple of 8, and the values. Tensors are ordered by dtype, then by name, which decides how many
digits their offsets have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

import torch

from ..errors import CheckpointError
from .tensors import DTYPES

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

    @property
    def num_bytes(self) -> int:
        """Bytes of the values."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def safetensors_bytes(
    tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str] | None = None
) -> int:
    """Bytes of a file that holds the tensors.

    Raises:
        CheckpointError: a dtype that safetensors does not hold.
    """
    for name, each in tensors.items():
        if each.dtype not in _RANK:
            raise CheckpointError(f"tensor '{name}' has dtype {each.dtype}, which cannot be saved")
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in sorted(tensors, key=lambda name: (_RANK[tensors[name].dtype][0], name.encode())):
        each = tensors[name]
        start, end = end, end + each.num_bytes
        header[name] = {
            "dtype": _RANK[each.dtype][1],
            "shape": list(each.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    padded = -(-len(text) // _ALIGNMENT) * _ALIGNMENT
    return 8 + padded + end
