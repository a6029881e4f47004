"""Tensor references: what a checkpoint holds in place of tensors, so that nothing loads early.

A reference knows dtype, shape and content digest; `load` returns the tensor. A loaded tensor must
not be changed in place: for tensors in memory it is the checkpoint's own.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}
"""The dtypes that can be read and written, by their name in a safetensors header."""


def check_dtype(name: str, dtype: torch.dtype) -> None:
    """Refuse a tensor whose dtype could be written but not read back.

    Raises:
        CheckpointError: the dtype is not in `DTYPES`.
    """
    if dtype not in DTYPES.values():
        raise CheckpointError(
            f"tensor '{name}' has dtype {dtype}, which cannot be saved; "
            f"convert it to one of {', '.join(str(known) for known in DTYPES.values())}"
        )


def digest(tensor: Tensor) -> str:
    """Return the SHA-256, in hex, over dtype, shape and raw little-endian values of a tensor."""
    found = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel():
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()


def all_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite; True for integer dtypes.

    Checks the minimum and maximum only, because both propagate NaN. On a CPU that takes a twentieth
    of the time of `torch.isfinite` on bfloat16.
    """
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    if tensor.itemsize == 1:
        tensor = tensor.float()
    lowest, highest = torch.aminmax(tensor)
    return bool(torch.isfinite(lowest) & torch.isfinite(highest))


class TensorRef(ABC):
    """A tensor whose dtype, shape and digest are known and whose values load on demand."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @abstractmethod
    def load(self) -> Tensor:
        """Return the tensor, on the CPU unless created elsewhere. Do not change it in place."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, in hex. Loads the tensor on first access."""
        return digest(self.load())

    @property
    def storage_kind(self) -> str:
        """Name of what a value is stored as: a dtype, or a grid such as ``int4`` or ``q4_0``."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def num_values(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of the values in the form they are stored in."""
        return self.num_values * self.dtype.itemsize


class InMemory(TensorRef):
    """A tensor in memory."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor.detach()
        self.dtype, self.shape = tensor.dtype, tuple(tensor.shape)

    def load(self) -> Tensor:
        return self._tensor


class InShard(TensorRef):
    """A tensor in a safetensors file, read on demand."""

    def __init__(self, path: Path, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        self.path, self.name = path, name
        self.dtype, self.shape = dtype, shape

    def load(self) -> Tensor:
        try:
            with safe_open(self.path, framework="pt") as shard:
                tensor: Tensor = shard.get_tensor(self.name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"tensor '{self.name}' cannot be read from {self.path.name}: {error}; "
                f"fetch the file again"
            ) from error
        return tensor


class Converted(TensorRef):
    """Another reference's tensor in another dtype, converted on every load."""

    def __init__(self, source: TensorRef, dtype: torch.dtype) -> None:
        self._source = source
        self.dtype, self.shape = dtype, source.shape

    def load(self) -> Tensor:
        return self._source.load().to(self.dtype)
