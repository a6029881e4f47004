"""Tensor references: what a checkpoint holds in place of tensors, so that nothing loads early.

A reference knows dtype, shape and content digest; `load` returns the tensor. A loaded tensor must
not be changed in place: for tensors in memory it is the checkpoint's own.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from .ggml_sizes import block_size
from .gguf_package import require_gguf

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


InputActivations = Literal["int8", "fp8"]
"""What the inputs of a linear are rounded to, one scale per token, while it computes."""


class Quantized(TensorRef):
    """A weight stored as codes, integers or float8, with one scale per group of columns.

    Its value is ``(code - zero_point) * scale``, exactly what a reader of the saved folder
    computes.

    Attributes:
        bits: bits of a code; an integer is from ``-2^(bits-1)`` to ``2^(bits-1) - 1``.
        num_groups: groups of columns, each with a scale.
        symmetric: whether there are no zero points, so that code 0 decodes to 0.
        is_float: whether codes are float8_e4m3fn instead of integers.
        input_activations: what a reader of the saved folder rounds the inputs of this linear to;
            None if it does not.

    Raises:
        CheckpointError: the shapes do not fit each other.
    """

    def __init__(
        self,
        codes: Tensor,
        scales: Tensor,
        *,
        bits: int,
        zero_points: Tensor | None = None,
        input_activations: InputActivations | None = None,
    ) -> None:
        if not _divides(codes, scales):
            raise CheckpointError(
                f"codes {tuple(codes.shape)} do not divide into the groups of scales "
                f"{tuple(scales.shape)}; use a group size that divides in_features"
            )
        if zero_points is not None and zero_points.shape != scales.shape:
            raise CheckpointError(
                f"zero points {tuple(zero_points.shape)} do not have the shape of scales "
                f"{tuple(scales.shape)}; give one per scale"
            )
        self._parts = {"codes": codes, "scales": scales}
        if zero_points is not None:
            self._parts["zero_points"] = zero_points
        self.input_activations = input_activations
        self._describe(codes, scales, bits=bits, symmetric=zero_points is None)

    def _describe(self, codes: Tensor, scales: Tensor, *, bits: int, symmetric: bool) -> None:
        """Set what is known without values; the tensors may be on the meta device."""
        self.bits, self.symmetric = bits, symmetric
        self.is_float = codes.is_floating_point()
        self.dtype, self.shape = scales.dtype, tuple(codes.shape)
        self.num_groups = int(scales.shape[1])

    @property
    def codes(self) -> Tensor:
        """int8 or float8_e4m3fn ``[out_features, in_features]``."""
        return self.parts()["codes"]

    @property
    def scales(self) -> Tensor:
        """``[out_features, groups]``, in the dtype they are stored in."""
        return self.parts()["scales"]

    @property
    def zero_points(self) -> Tensor | None:
        """int8 ``[out_features, groups]``, or None on a symmetric grid."""
        return self.parts().get("zero_points")

    @property
    def storage_kind(self) -> str:
        return "fp8" if self.is_float else f"int{self.bits}"

    @property
    def group_size(self) -> int:
        """Columns that share one scale."""
        return self.shape[1] // self.num_groups

    @property
    def num_bytes(self) -> int:
        num_scales = self.shape[0] * self.num_groups
        stored = self.num_values * self.bits // 8 + num_scales * self.dtype.itemsize
        return stored + (0 if self.symmetric else num_scales)

    def load(self) -> Tensor:
        return self.values(self.dtype)

    def values(self, dtype: torch.dtype) -> Tensor:
        """Return the dequantised weight ``[out_features, in_features]``, computed in ``dtype``."""
        parts = self.parts()
        scales = parts["scales"].to(dtype)
        grouped = parts["codes"].reshape(*scales.shape, self.group_size).to(dtype)
        if "zero_points" in parts:
            grouped = grouped - parts["zero_points"].to(dtype).unsqueeze(2)
        return (grouped * scales.unsqueeze(2)).flatten(1)

    @property
    def _suffix(self) -> str:
        return "" if self.input_activations is None else f" {self.input_activations} inputs"

    @cached_property
    def digest(self) -> str:
        found = hashlib.sha256(f"{self.storage_kind}{self._suffix}".encode())
        for part in self.parts().values():
            found.update(digest(part).encode())
        return found.hexdigest()

    def parts(self) -> Mapping[str, Tensor]:
        """The tensors it consists of, by name."""
        return self._parts


def _divides(codes: Tensor, scales: Tensor) -> bool:
    if codes.ndim != 2 or scales.ndim != 2 or codes.shape[0] != scales.shape[0]:
        return False
    return scales.shape[1] > 0 and codes.shape[1] % scales.shape[1] == 0


class GgmlBlocks(TensorRef):
    """A weight stored in blocks of a ggml type, written to GGUF files unchanged.

    Attributes:
        kind: name of the type in lower case, such as ``q4_0``.
        transposed: whether the tensor is ``[in_features, out_features]``, as in GPT-2.

    Raises:
        CheckpointError: the type is not known, or a row is not a whole number of blocks.
    """

    def __init__(self, blocks: Tensor, *, kind: str, transposed: bool = False) -> None:
        values, size = block_size(kind)
        if blocks.dtype != torch.uint8 or blocks.ndim != 2 or blocks.shape[1] % size:
            raise CheckpointError(
                f"blocks {blocks.dtype} {tuple(blocks.shape)} are not rows of {kind}; give uint8 "
                f"with {size} bytes for every {values} columns"
            )
        self._parts = {"blocks": blocks.detach()}
        self._describe(blocks, kind=kind, transposed=transposed)

    def _describe(self, blocks: Tensor, *, kind: str, transposed: bool) -> None:
        """Set what is known without values; the tensor may be on the meta device."""
        values, size = block_size(kind)
        self.kind, self.transposed, self._num_bytes = kind, transposed, blocks.numel()
        shape = (blocks.shape[0], blocks.shape[1] // size * values)
        self.dtype, self.shape = torch.float32, shape[::-1] if transposed else shape

    @property
    def blocks(self) -> Tensor:
        """uint8 ``[out_features, bytes per row]``."""
        return self.parts()["blocks"]

    def load(self) -> Tensor:
        """Return the values that llama.cpp computes from the blocks, float32.

        Raises:
            MissingExtraError: the package gguf is not installed.
        """
        gguf = require_gguf()
        kind = gguf.GGMLQuantizationType[self.kind.upper()]
        values = gguf.quants.dequantize(self.blocks.cpu().numpy(), kind)
        weight = torch.from_numpy(values)
        return weight.T if self.transposed else weight

    @property
    def storage_kind(self) -> str:
        return self.kind

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    @cached_property
    def digest(self) -> str:
        found = hashlib.sha256(f"{self.kind}{self.transposed}".encode())
        found.update(digest(self.blocks).encode())
        return found.hexdigest()

    def parts(self) -> Mapping[str, Tensor]:
        """The tensors it consists of, by name."""
        return self._parts


BitsAndBytesKind = Literal["nf4", "nf4.single", "llm.int8"]


class BitsAndBytes(TensorRef):
    """A weight that bitsandbytes quantises when the folder is saved.

    Attributes:
        source: the weight before quantisation, so that saving quantises the same values only once.
        kind: ``nf4`` (double quantisation: scales in 8 bits), ``nf4.single``, or ``llm.int8``.
    """

    def __init__(self, source: TensorRef, values: Tensor, *, kind: BitsAndBytesKind) -> None:
        self.source, self.kind, self._values = source, kind, values.detach()
        self.dtype, self.shape = values.dtype, tuple(values.shape)

    def load(self) -> Tensor:
        return self._values

    @property
    def storage_kind(self) -> str:
        return self.kind

    @property
    def num_bytes(self) -> int:
        return self.num_values if self.kind == "llm.int8" else self.num_values // 2

    @cached_property
    def digest(self) -> str:
        found = hashlib.sha256(self.kind.encode())
        for part in self.parts().values():
            found.update(digest(part).encode())
        return found.hexdigest()

    def parts(self) -> Mapping[str, Tensor]:
        """The tensors it consists of, by name."""
        return {"source": self.source.load(), "values": self._values}


Coded = Quantized | BitsAndBytes | GgmlBlocks
"""References to quantised weights, which are stored as codes instead of values."""
