"""FP8 weights with one scale per block, row or tensor, such as DeepSeek-V3 and Qwen3-FP8 publish.

Read here: ``quant_method: fp8`` (`FineGrainedFP8Config` of transformers) and ``fbgemm_fp8``, and
the float8 formats of compressed-tensors. A value is the float8 number times the scale of its
block, in float32. Scales of activations are for computing in float8 and are not needed.

Where rows or columns are no multiple of the block, the last block is smaller, as the releases have
it. transformers 5.23 refuses such tensors when it dequantises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...checkpoints import TensorRef
from ...errors import CheckpointError
from .float4 import float_scales, unpack_e2m1

_FLOAT8 = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
)
_BLOCK = (128, 128)  # where the config names none, as in transformers

# What releases call the scales of a weight: after its name, or in its module.
_SCALES = ("_scale_inv", "_scale")
_SCALES_IN_MODULE = (".weight_scale_inv", ".weight_scale", ".scale", ".qscale_weight")
_OF_ACTIVATIONS = ("_activation_scale",)
_OF_ACTIVATIONS_IN_MODULE = (".activation_scale", ".input_scale", ".input_scale_ub", ".qscale_act")

Block = tuple[int, int]


class Float8(TensorRef):
    """A float8 weight: float32, dequantised each time it loads.

    Args:
        codes: float8 ``[..., rows, columns]``, or int8 with two FP4 numbers per byte.
        scales: one value, or ``[..., row_blocks, column_blocks]``; uint8 are exponents of two.
        block: rows and columns of a block; None where the number of scales decides.

    Raises:
        CheckpointError: scales that do not fit the codes.
    """

    def __init__(self, name: str, codes: TensorRef, scales: TensorRef, block: Block | None) -> None:
        self._codes, self._scales = codes, scales
        *leading, rows, columns = codes.shape if len(codes.shape) > 1 else (1, *codes.shape)
        columns *= 2 if codes.dtype == torch.int8 else 1
        self.dtype = torch.float32
        self.shape = (*leading, rows, columns) if len(codes.shape) > 1 else (columns,)
        self._grid = _grid(scales.shape, leading, rows)
        found = None if self._grid is None else _block((rows, columns), self._grid[-2:], block)
        if self._grid is None or found is None:
            raise CheckpointError(
                f"'{name}' has float8 scales {list(scales.shape)} for a weight {list(self.shape)}, "
                f"which they do not fit with blocks of {list(block or _BLOCK)}; fetch the folder "
                f"again"
            )
        self._block: Block = found

    def load(self) -> Tensor:
        codes = self._codes.load()
        values = unpack_e2m1(codes) if codes.dtype == torch.int8 else codes.float()
        if values.ndim == 1:
            values = values.unsqueeze(0)  # one row
        assert self._grid is not None
        scales = float_scales(self._scales.load()).reshape(self._grid)
        height, width = self._block
        # The scale of every row and block of columns: [..., rows, column_blocks].
        by_row = scales.repeat_interleave(height, dim=-2)[..., : values.shape[-2], :]
        whole = values.shape[-1] // width
        blocks = values[..., : whole * width].unflatten(-1, (whole, width))
        blocks *= by_row[..., :whole, None]
        if values.shape[-1] > whole * width:
            values[..., whole * width :] *= by_row[..., whole:]
        return values.reshape(self.shape)


def _grid(shape: Sequence[int], leading: Sequence[int], rows: int) -> tuple[int, ...] | None:
    """The shape of scales with row and column blocks as the last two; None if it does not fit."""
    if math.prod(shape) == 1:
        return (*(1 for _ in leading), 1, 1)
    if len(shape) == 1:
        shape = (*shape, 1) if shape[0] == rows else (*shape, 1, 1)
    fits = len(shape) == len(leading) + 2 and list(shape[:-2]) == list(leading)
    return tuple(shape) if fits else None


def _block(size: Block, grid: Sequence[int], asked: Block | None) -> Block | None:
    """Rows and columns that share a scale; None if the scales do not fit the weight."""
    if asked is not None:
        wanted = [math.ceil(length / step) for length, step in zip(size, asked, strict=True)]
        if wanted == list(grid):
            return asked
    if 0 in grid or any(length % count for length, count in zip(size, grid, strict=True)):
        return None
    return size[0] // grid[0], size[1] // grid[1]


def is_float8(ref: TensorRef) -> bool:
    """Whether a tensor is stored in a float8 dtype of weights."""
    return ref.dtype in _FLOAT8


def read_float8(refs: Mapping[str, TensorRef], settings: Mapping[str, Any]) -> dict[str, TensorRef]:
    """A folder's tensors, with float8 weights as dequantised ones and without their scales.

    Args:
        refs: tensors by their names in the folder.
        settings: the contents of ``quantization_config`` in ``config.json``.

    Raises:
        CheckpointError: scales that are missing or do not fit, or settings that are none.
    """
    block, found = _stated_block(settings), dict(refs)
    for name, codes in refs.items():
        scale = _scale_of(name, refs)
        if scale is None and is_float8(codes):
            raise CheckpointError(
                f"'{name}' is stored in {codes.dtype} but has no scale beside it; fetch the "
                f"folder again"
            )
        if scale is not None and (is_float8(codes) or codes.dtype == torch.int8):
            found[name] = Float8(name, codes, refs[scale], block)
            for part in (scale, *_names(name, _OF_ACTIVATIONS, _OF_ACTIVATIONS_IN_MODULE)):
                found.pop(part, None)
    return found


def _stated_block(settings: Mapping[str, Any]) -> Block | None:
    stated = settings.get("weight_block_size", _BLOCK)
    if stated is None:
        return None
    if (
        not isinstance(stated, list | tuple)
        or len(stated) != 2
        or any(not isinstance(size, int) or size < 1 for size in stated)
    ):
        raise CheckpointError(
            f"quantization_config in config.json says weight_block_size={stated!r}; it must be "
            f"two positive integers or null"
        )
    return stated[0], stated[1]


def _scale_of(name: str, refs: Mapping[str, TensorRef]) -> str | None:
    return next((each for each in _names(name, _SCALES, _SCALES_IN_MODULE) if each in refs), None)


def _names(name: str, after: Sequence[str], inside: Sequence[str]) -> list[str]:
    """What a part of a weight may be called."""
    module, _, leaf = name.rpartition(".")
    in_module = [f"{module}{each}" for each in inside] if leaf == "weight" else []
    return [*(f"{name}{each}" for each in after), *in_module]
