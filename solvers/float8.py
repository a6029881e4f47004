"""Round a weight to float8 (e4m3fn: 3 bits of mantissa, largest value 448), one scale per row.

value = code * scale, with scale = max|w| of the row / 448, the convention of compressed-tensors.
Minimised is each weight's own error: codes are the nearest float8 numbers, halves to even.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SolverError
from .checks import require_mask, require_weight, working_dtype

_LARGEST = torch.finfo(torch.float8_e4m3fn).max


@dataclass(frozen=True, eq=False)
class Float8Weight:
    """A weight in float8.

    Attributes:
        codes: float8_e4m3fn [out_features, in_features].
        scales: [out_features, 1] in the dtype they are stored in, positive.
    """

    codes: Tensor
    scales: Tensor

    def dequantize(self) -> Tensor:
        """Return the values, float32 [out_features, in_features]."""
        return self.codes.float() * self.scales.float()


def round_to_float8(
    weight: Tensor, *, scale_dtype: torch.dtype, mask: Tensor | None = None
) -> Float8Weight:
    """Round to nearest with the scale of each row set by its largest magnitude.

    Args:
        weight: [out_features, in_features], any floating dtype.
        scale_dtype: dtype that scales are stored in; codes are chosen for the rounded scale.
        mask: boolean, same shape as ``weight``; False holds a weight at exactly zero.

    Raises:
        SettingError: the mask has another shape.
        SolverError: a value is not finite, or a scale overflows its dtype.
    """
    require_weight(weight)
    values = weight.detach().to(working_dtype(weight))
    if mask is not None:
        require_mask(weight, mask)
        values = values.masked_fill(~mask, 0.0)
    largest = values.abs().amax(1, keepdim=True)
    scales = (largest / _LARGEST).to(scale_dtype)
    if not torch.isfinite(scales).all():
        raise SolverError(
            f"scale {float(largest.max() / _LARGEST):g} does not fit in {scale_dtype}; store "
            f"scales as bfloat16 or float32"
        )
    scales = scales.clamp(min=torch.finfo(scale_dtype).tiny).masked_fill(largest == 0, 1.0)
    steps = values / scales.to(values.dtype)
    return Float8Weight(steps.clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn), scales)
