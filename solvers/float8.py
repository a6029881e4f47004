"""Round a weight to float8 (e4m3fn: 3 bits of mantissa, largest value 448), one scale per row or
square block.

value = code * scale, with scale = max|w| / 448 of the row or block, the convention of
compressed-tensors.
Minimised is each weight's own error: codes are the nearest float8 numbers, halves to even.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import SolverError
from .checks import require_mask, require_weight, working_dtype

_LARGEST = torch.finfo(torch.float8_e4m3fn).max


@dataclass(frozen=True, eq=False)
class Float8Weight:
    """A weight in float8.

    Attributes:
        codes: float8_e4m3fn [out_features, in_features].
        scales: [out_features, 1], or of blocks [rows, columns], in the dtype they are stored in,
            positive.
        block_size: rows and columns of a block; None with a scale per row.
    """

    codes: Tensor
    scales: Tensor
    block_size: int | None = None

    def dequantize(self) -> Tensor:
        """Return the values, float32 [out_features, in_features]."""
        scales = _by_weight(self.scales.float(), self.codes.shape, self.block_size)
        return self.codes.float() * scales


def round_to_float8(
    weight: Tensor,
    *,
    scale_dtype: torch.dtype,
    mask: Tensor | None = None,
    block_size: int | None = None,
) -> Float8Weight:
    """Round to nearest with the scale of each row or block set by its largest magnitude.

    Args:
        weight: [out_features, in_features], any floating dtype.
        scale_dtype: dtype that scales are stored in; codes are chosen for the rounded scale.
        mask: boolean, same shape as ``weight``; False holds a weight at exactly zero.
        block_size: rows and columns that share a scale; the last ones may be fewer. None for one
            scale per row.

    Raises:
        SettingError: the mask has another shape.
        SolverError: a value is not finite, or a scale overflows its dtype.
    """
    require_weight(weight)
    values = weight.detach().to(working_dtype(weight))
    if mask is not None:
        require_mask(weight, mask)
        values = values.masked_fill(~mask, 0.0)
    largest = _largest(values, block_size)
    scales = (largest / _LARGEST).to(scale_dtype)
    if not torch.isfinite(scales).all():
        raise SolverError(
            f"scale {float(largest.max() / _LARGEST):g} does not fit in {scale_dtype}; store "
            f"scales as bfloat16 or float32"
        )
    scales = scales.clamp(min=torch.finfo(scale_dtype).tiny).masked_fill(largest == 0, 1.0)
    steps = values / _by_weight(scales.to(values.dtype), values.shape, block_size)
    codes = steps.clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    return Float8Weight(codes, scales, block_size)


def _largest(values: Tensor, block_size: int | None) -> Tensor:
    """The largest magnitude of each row [rows, 1] or block [row_blocks, column_blocks]."""
    if block_size is None:
        return values.abs().amax(1, keepdim=True)
    bottom, right = (-length % block_size for length in values.shape)
    padded = functional.pad(values.abs(), (0, right, 0, bottom))
    blocks = padded.unflatten(1, (-1, block_size)).unflatten(0, (-1, block_size))
    largest: Tensor = blocks.amax((1, 3))
    return largest


def _by_weight(scales: Tensor, shape: torch.Size, block_size: int | None) -> Tensor:
    """Scales that broadcast over a weight of ``shape``."""
    if block_size is None:
        return scales
    rows = scales.repeat_interleave(block_size, 0)[: shape[0]]
    return rows.repeat_interleave(block_size, 1)[:, : shape[1]]
