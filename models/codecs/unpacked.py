"""A weight of compressed-tensors that is kept as it is stored: codes, scales and zero points.

Its value is ``(code - zero_point) * scale`` in float32, which no code of up to 8 bits rounds by
more than that one product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs
from torch import Tensor

from ...checkpoints import Quantized, TensorRef
from ...checkpoints.coded import InputActivations
from ...errors import CheckpointError


class Unpacked(TensorRef):
    """A weight in a compressed-tensors folder: float32, multiplied out each time it loads.

    Attributes:
        inputs: how its linear rounds its inputs; None if it does not.
        block_size: rows and columns of a block with one scale; None where rows have their own.
    """

    def __init__(
        self,
        name: str,
        parts: Mapping[str, TensorRef],
        args: QuantizationArgs,
        inputs: QuantizationArgs | None = None,
    ) -> None:
        self._name, self._parts, self.inputs = name, parts, inputs
        self._bits, self._symmetric, self.block_size = (
            args.num_bits,
            args.symmetric,
            kept_block(args),
        )
        self.dtype, self.shape = torch.float32, self._stated_shape()
        self._check_scales()

    def load(self) -> Tensor:
        return self.codes().values(torch.float32)

    def codes(self) -> Quantized:
        """The codes and scales as they are stored, with the rounding of inputs if it is kept.

        Raises:
            CheckpointError: parts that do not fit each other.
        """
        scales = self._scales()
        return Quantized(
            self._codes(),
            scales,
            bits=self._bits,
            zero_points=self._zero_points(scales),
            input_activations=kept_activations(self.inputs, self.block_size),
            block_size=self.block_size,
        )

    def outline(self) -> Quantized:
        """The same without values, on the meta device: nothing of them is read."""
        scale = self._part("scale")
        shape = (self.shape[0], 1) if self._has_one_scale else scale.shape
        scales = torch.empty(shape, dtype=scale.dtype, device="meta")
        zeros = None if self._symmetric else torch.empty_like(scales, dtype=torch.int8)
        dtype = self._parts["codes"].dtype if "codes" in self._parts else torch.int8
        codes = torch.empty(self.shape, dtype=dtype, device="meta")
        return Quantized(
            codes,
            scales,
            bits=self._bits,
            zero_points=zeros,
            input_activations=kept_activations(self.inputs, self.block_size),
            block_size=self.block_size,
        )

    def _stated_shape(self) -> tuple[int, ...]:
        """Rows and columns, checked against the bytes that are there."""
        if "packed" not in self._parts:
            return self._parts["codes"].shape
        packed = self._parts["packed"]
        shape = tuple(int(size) for size in self._part("shape").load().flatten().tolist())
        wanted = (*shape[:-1], math.ceil(shape[-1] * self._bits / 32)) if len(shape) == 2 else None
        if packed.dtype != torch.int32 or packed.shape != wanted:
            raise CheckpointError(
                f"'{self._name}' is recorded with shape {list(shape)} and {self._bits} bits, but "
                f"its codes are {packed.dtype} {list(packed.shape)}; fetch the folder again"
            )
        return shape

    def _check_scales(self) -> None:
        scales = self._part("scale")
        rows, width = self.shape
        if scales.num_values == 1 or self.block_size is not None:
            return
        if (
            len(scales.shape) != 2
            or scales.shape[0] != rows
            or width % (scales.shape[1] or width + 1)
        ):
            raise CheckpointError(
                f"'{self._name}' has scales {list(scales.shape)} for a weight {[rows, width]}, "
                f"which they do not divide; fetch the folder again"
            )

    def _codes(self) -> Tensor:
        if "packed" not in self._parts:
            return self._parts["codes"].load()
        packed = self._parts["packed"].load()
        codes: Tensor = unpack_from_int32(packed, self._bits, torch.Size(self.shape))
        return codes.contiguous()

    @property
    def _has_one_scale(self) -> bool:
        """Whether a single scale stands for every row."""
        return self._part("scale").num_values == 1 and self.block_size is None

    def _scales(self) -> Tensor:
        """``[out_features, groups]``; one scale for a whole matrix is stood in every row. Of blocks
        as stored."""
        stored = self._part("scale").load()
        if self._has_one_scale:
            return stored.reshape(1, 1).expand(self.shape[0], 1).contiguous()
        return stored

    def _zero_points(self, scales: Tensor) -> Tensor | None:
        """int8 like ``scales``; packed down the columns in a packed folder."""
        if self._symmetric:
            return None
        stored = self._part("zero_point").load()
        if stored.dtype == torch.int32:
            expected = (math.ceil(scales.shape[0] * self._bits / 32), scales.shape[1])
            if stored.shape != expected:
                raise CheckpointError(
                    f"'{self._name}' has zero points {list(stored.shape)} for scales "
                    f"{list(scales.shape)}, which need {list(expected)}; fetch the folder again"
                )
            # Packed down the columns, which the library itself cannot view if it is a single word.
            turned = stored.T.clone(memory_format=torch.contiguous_format)
            shape = torch.Size((scales.shape[1], scales.shape[0]))
            stored = unpack_from_int32(turned, self._bits, shape).T
        return stored.to(torch.int8).expand(scales.shape).contiguous()

    def _part(self, part: str) -> TensorRef:
        if part not in self._parts:
            raise CheckpointError(
                f"'{self._name}' is quantised but the folder lacks its {part.replace('_', ' ')}; "
                f"fetch it again"
            )
        return self._parts[part]


def kept_block(args: QuantizationArgs) -> int | None:
    """Rows and columns of square blocks with one scale each; None for anything else."""
    block = args.block_structure if args.strategy == "block" else None
    return block[0] if block and block[0] == block[1] else None


def is_kept(inputs: QuantizationArgs | None, block_size: int | None) -> bool:
    """Whether inputs are not rounded, or as `Quantized` describes it."""
    return inputs is None or kept_activations(inputs, block_size) is not None


def kept_activations(
    inputs: QuantizationArgs | None, block_size: int | None
) -> InputActivations | None:
    """The kind of dynamic rounding to 8 bits; None for no rounding or any other.

    Per token, or for weights with scales per block per group of as many features.
    """
    strategy = ("token", None) if block_size is None else ("group", block_size)
    if inputs is None or inputs.dynamic is not True:
        return None
    if (inputs.strategy, inputs.group_size) != strategy:
        return None
    if inputs.num_bits != 8 or not inputs.symmetric:
        return None
    return "int8" if inputs.type == "int" else "fp8"
