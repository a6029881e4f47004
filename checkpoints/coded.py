"""Quantised weights as references: codes with what is needed to read them as values.

`Quantized` holds integers or small floats with scales, `GgmlBlocks` blocks of a ggml type, and
`BitsAndBytes` a weight that bitsandbytes quantises when a folder is written.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal, TypeGuard

import torch
from torch import Tensor

from ..errors import CheckpointError
from .ggml_sizes import SCALE_BYTES, block_size
from .gguf_package import require_gguf
from .tensors import TensorRef, digest

InputActivations = Literal["int8", "fp8"]
"""What the inputs of a linear are rounded to while it computes, one scale per token; where its
weight has a scale per block, one for the columns of each block."""


Float4 = Literal["mxfp4", "nvfp4"]
"""Formats of E2M1 numbers (FP4): groups of 32 with powers of two as scales, and groups of 16 with
float8 scales divided by a global one."""


class Quantized(TensorRef):
    """A weight stored as codes, integers or float8, with a scale per group of columns or block.

    Its value is ``(code - zero_point) * scale``, exactly what a reader of the saved folder
    computes. The weights of all experts of a block are one tensor with a leading axis of experts.

    Attributes:
        bits: bits of a code; an integer is from ``-2^(bits-1)`` to ``2^(bits-1) - 1``.
        num_groups: groups of columns, each with a scale.
        scales_shape: ``[out_features, groups]``, or of blocks ``[row_blocks, column_blocks]``.
        symmetric: whether there are no zero points, so that code 0 decodes to 0.
        is_float: whether codes are float8_e4m3fn instead of integers.
        input_activations: what a reader of the saved folder rounds the inputs of this linear to;
            None if it does not.
        block_size: rows and columns of a block with one scale; the last ones may be smaller. None
            where every row has scales of its own.
        float4: the format of E2M1 numbers; codes are then twice such a number, and 8 bits of each
            scale are stored. None for integers and float8.

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
        block_size: int | None = None,
        float4: Float4 | None = None,
        global_scale: Tensor | None = None,
    ) -> None:
        if block_size is not None and scales.shape != block_scales(codes.shape, block_size):
            raise CheckpointError(
                f"codes {tuple(codes.shape)} do not have the blocks of {block_size} of scales "
                f"{tuple(scales.shape)}; give one scale per block"
            )
        if block_size is None and not _divides(codes, scales):
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
        if (global_scale is not None) != (float4 == "nvfp4"):
            raise CheckpointError(
                f"a weight of format {float4 or 'other than nvfp4'} was given "
                f"{'no ' if global_scale is None else 'a '}global scale; only nvfp4 has one"
            )
        if global_scale is not None:
            self._parts["global_scale"] = global_scale
        self.input_activations = input_activations
        self._describe(
            codes,
            scales,
            bits=bits,
            symmetric=zero_points is None,
            block_size=block_size,
            float4=float4,
        )

    def _describe(
        self,
        codes: Tensor,
        scales: Tensor,
        *,
        bits: int,
        symmetric: bool,
        block_size: int | None,
        float4: Float4 | None,
    ) -> None:
        """Set what is known without values; the tensors may be on the meta device."""
        self.bits, self.symmetric, self.block_size = bits, symmetric, block_size
        self.float4 = float4
        self.is_float = codes.is_floating_point()
        self.dtype, self.shape = scales.dtype, tuple(codes.shape)
        self.scales_shape, self.num_groups = tuple(scales.shape), int(scales.shape[-1])

    @property
    def codes(self) -> Tensor:
        """int8 or float8_e4m3fn ``[out_features, in_features]``, experts first."""
        return self.parts()["codes"]

    @property
    def scales(self) -> Tensor:
        """``[out_features, groups]`` or ``[row_blocks, column_blocks]``, in their stored dtype.

        Experts first, as in ``codes``.
        """
        return self.parts()["scales"]

    @property
    def zero_points(self) -> Tensor | None:
        """int8 ``[out_features, groups]``, or None on a symmetric grid."""
        return self.parts().get("zero_points")

    @property
    def storage_kind(self) -> str:
        return self.float4 or ("fp8" if self.is_float else f"int{self.bits}")

    @property
    def group_size(self) -> int:
        """Columns that share one scale."""
        return self.block_size or self.shape[-1] // self.num_groups

    @property
    def has_free_scales(self) -> bool:
        """Whether scales are floats, one for each row or group of its columns, beside integers."""
        return not self.is_float and self.float4 is None and self.block_size is None

    @property
    def num_scales(self) -> int:
        """Number of all scales."""
        return math.prod(self.scales_shape)

    @property
    def num_bytes(self) -> int:
        scale_bytes = self.dtype.itemsize if self.float4 is None else 1
        stored = self.num_values * self.bits // 8 + self.num_scales * scale_bytes
        stored += 4 if self.float4 == "nvfp4" else 0  # the global scale, float32
        return stored + (0 if self.symmetric else self.num_scales)

    def with_values(self, codes: Tensor, scales: Tensor) -> Quantized:
        """A weight of the same format and zero points, with other codes and scales."""
        parts = self.parts()
        return Quantized(
            codes,
            scales,
            bits=self.bits,
            zero_points=parts.get("zero_points"),
            input_activations=self.input_activations,
            block_size=self.block_size,
            float4=self.float4,
            global_scale=parts.get("global_scale"),
        )

    def load(self) -> Tensor:
        return self.values(self.dtype)

    def values(self, dtype: torch.dtype) -> Tensor:
        """Return the dequantised weight in the shape of ``codes``, computed in ``dtype``."""
        parts = self.parts()
        scales = parts["scales"].to(dtype)
        if self.block_size is not None:
            rows = scales.repeat_interleave(self.block_size, 0)[: self.shape[0]]
            by_weight = rows.repeat_interleave(self.block_size, 1)[:, : self.shape[1]]
            return parts["codes"].to(dtype) * by_weight
        steps = grid_steps(parts["codes"], parts.get("zero_points"), scales.shape, dtype)
        return (steps * scales.unsqueeze(-1)).flatten(-2)

    @property
    def _suffix(self) -> str:
        inputs = "" if self.input_activations is None else f" {self.input_activations} inputs"
        return inputs if self.block_size is None else f" blocks of {self.block_size}{inputs}"

    @cached_property
    def digest(self) -> str:
        found = hashlib.sha256(f"{self.storage_kind}{self._suffix}".encode())
        for part in self.parts().values():
            found.update(digest(part).encode())
        return found.hexdigest()

    def parts(self) -> Mapping[str, Tensor]:
        """The tensors it consists of, by name."""
        return self._parts


def grid_steps(
    codes: Tensor, zero_points: Tensor | None, scales_shape: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """Codes less zero points, ``[out_features, groups, group_size]``, experts first."""
    steps = codes.reshape(*scales_shape, -1).to(dtype)
    return steps if zero_points is None else steps - zero_points.to(dtype).unsqueeze(-1)


def multiplied(scales: Tensor, factors: Tensor) -> Tensor:
    """Scales times factors, in the dtype of the scales; one that would leave its range stays."""
    found = (scales.to(factors.dtype) * factors).to(scales.dtype)
    return torch.where((found == 0) | ~torch.isfinite(found), scales, found)


def block_scales(shape: Sequence[int], block_size: int) -> tuple[int, ...]:
    """The shape of the scales of a weight of ``shape`` with one per block."""
    return tuple(math.ceil(length / block_size) for length in shape)


def _divides(codes: Tensor, scales: Tensor) -> bool:
    if codes.ndim not in (2, 3) or codes.shape[:-1] != scales.shape[:-1]:
        return False
    return scales.shape[-1] > 0 and codes.shape[-1] % scales.shape[-1] == 0


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

    @property
    def has_free_scales(self) -> bool:
        """Whether `scaled` knows where the scales of a block are."""
        return self.kind in SCALE_BYTES

    @property
    def scales_shape(self) -> tuple[int, int]:
        """``[out_features, blocks]``."""
        rows, columns = self.shape[::-1] if self.transposed else self.shape
        return rows, columns // block_size(self.kind)[0]

    @property
    def num_scales(self) -> int:
        """Number of all blocks."""
        return math.prod(self.scales_shape)

    def scaled(self, factors: Tensor) -> GgmlBlocks:
        """The same codes, with the float16 scales of every block multiplied.

        A scale that would leave the range of float16, or vanish, stays.

        Args:
            factors: ``[out_features, blocks]``.
        """
        size = block_size(self.kind)[1]
        blocks = self.blocks.reshape(*self.scales_shape, size).clone()
        for place in SCALE_BYTES[self.kind]:
            part = blocks[..., place : place + 2]
            before = part.contiguous().view(torch.float16).squeeze(-1)
            part.copy_(multiplied(before, factors).unsqueeze(-1).view(torch.uint8))
        return GgmlBlocks(blocks.flatten(1), kind=self.kind, transposed=self.transposed)

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


def has_scales(ref: TensorRef) -> TypeGuard[Quantized | GgmlBlocks]:
    """Whether a tensor is quantised with scales that can change without its codes."""
    return isinstance(ref, Quantized | GgmlBlocks) and ref.has_free_scales
