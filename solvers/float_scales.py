"""Scales that are stored as floats of 8 bits: the nearest ones that a format holds.

E8M0 holds powers of two. E4M3 holds float8_e4m3fn numbers times a unit that all groups of a weight
share; a unit that is a power of two leaves 4 significant bits, so that every product with an E2M1
number is exact in bfloat16.

OCP Microscaling Formats (MX) specification 1.0, sections 5.3.3 and 5.4.1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

ScaleFormat = Literal["e8m0", "e4m3"]

_E4M3 = torch.finfo(torch.float8_e4m3fn).max
_LEAST_E4M3 = 2.0**-9  # its smallest number, without a leading bit

# A value below 7 steps is stored as 6, as compressed-tensors has it, not with twice the scale.
_CLIPPED = 6 / 7


def nearest_scale(scale: Tensor, format: ScaleFormat, unit: float) -> Tensor:
    """Positive scales rounded to those of a format, in their dtype; 0 stays 0.

    Args:
        scale: any shape, not negative; the largest value of a group over the largest code.
        format: e8m0 rounds down to a power of two where that clips no value by more than a
            seventh, otherwise up. e4m3 rounds to nearest.
        unit: what e4m3 numbers are multiplied by; not used by e8m0.
    """
    if format == "e8m0":
        _, exponents = torch.frexp(scale * _CLIPPED)  # scale * 6/7 is in [2^(e-1), 2^e)
        found = torch.ldexp(torch.ones_like(scale), exponents)
    else:
        steps = (scale / unit).clamp(_LEAST_E4M3, _E4M3)
        found = steps.to(torch.float8_e4m3fn).to(scale.dtype) * unit
    return found.masked_fill_(scale == 0, 0.0)


def e4m3_unit(largest: float) -> float:
    """A power of two that makes ``largest`` at least 112 and at most 224 of float8's 448 steps.

    Scales may grow to twice ``largest`` while columns are compensated.
    """
    return 1.0 if largest == 0 else 2.0 ** math.ceil(math.log2(largest * 2 / _E4M3))
