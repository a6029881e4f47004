"""The integer grids weights are rounded to, and how a scale is fitted to a group of weights.

Codes are signed, from -2^(bits-1) to 2^(bits-1) - 1, and stored as int8. A symmetric grid decodes
as code * scale with scale = max|w| / ((2^bits - 1) / 2), compressed-tensors' convention: the range
is as wide as all the codes together, so the two extremes are each met to half a step. An asymmetric
one decodes as (code - zero_point) * scale; its range always holds 0, and 0 is met exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingError, SolverError

_COMMON_GROUP_SIZES = (16, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class Grid:
    """An integer grid.

    Attributes:
        bits: 2 to 8.
        group_size: consecutive input columns that share a scale; None for the whole row.
        symmetric: whether the zero point is fixed at 0.
    """

    bits: int = 4
    group_size: int | None = 128
    symmetric: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise SettingError(f"bits {self.bits} is out of range; give 2 to 8")
        if self.group_size is not None and self.group_size < 1:
            raise SettingError(
                f"group_size {self.group_size} is out of range; give at least 1, or None for one "
                "scale a row"
            )

    @property
    def smallest(self) -> int:
        """The least code."""
        return -(1 << (self.bits - 1))

    @property
    def largest(self) -> int:
        """The greatest code."""
        return (1 << (self.bits - 1)) - 1

    def group_width(self, width: int) -> int:
        """Return columns per group in a row of ``width``; SettingError if they do not divide it."""
        if self.group_size is None:
            return width
        if width % self.group_size:
            fitting = [str(size) for size in _COMMON_GROUP_SIZES if width % size == 0]
            instead = ", ".join(fitting) or "none of the usual sizes"
            raise SettingError(
                f"group_size {self.group_size} does not divide width {width}; "
                f"sizes that do: {instead}; or None for one scale a row"
            )
        return self.group_size


@dataclass(frozen=True, eq=False)
class Scales:
    """Scales, and zero points if any, of some groups of one grid.

    Attributes:
        scale: any shape, in the dtype it will be stored in; positive.
        zero_point: int8, same shape; None for a symmetric grid.
        grid: the grid.
    """

    scale: Tensor
    zero_point: Tensor | None
    grid: Grid

    def encode(self, values: Tensor) -> Tensor:
        """Return the nearest codes, as whole numbers in the dtype of ``values``.

        ``values`` must broadcast against `scale`. Halves go to the even code.
        """
        codes = torch.round(values / self.scale.to(values.dtype))
        if self.zero_point is not None:
            codes += self.zero_point.to(values.dtype)
        return codes.clamp_(self.grid.smallest, self.grid.largest)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values of ``codes`` in their own floating dtype."""
        if self.zero_point is not None:
            codes = codes - self.zero_point.to(codes.dtype)
        return codes * self.scale.to(codes.dtype)

    def squeeze(self, dim: int) -> Scales:
        """Return the same without the axis ``dim`` of size 1."""
        zero_point = None if self.zero_point is None else self.zero_point.squeeze(dim)
        return Scales(self.scale.squeeze(dim), zero_point, self.grid)


def fit_scales(values: Tensor, *, grid: Grid, scale_dtype: torch.dtype, dim: int = -1) -> Scales:
    """Fit scales to the extremes of ``values`` along ``dim``, which is kept with size 1.

    Scales are rounded to ``scale_dtype`` here, before any code is chosen, so that codes fit the
    scale that is stored. A group of zeros gets scale 1. Raises SolverError if a scale overflows.
    """
    low = values.amin(dim, keepdim=True).clamp_(max=0.0)
    high = values.amax(dim, keepdim=True).clamp_(min=0.0)
    num_steps = (1 << grid.bits) - 1
    reach = torch.maximum(high, -low) * 2 if grid.symmetric else high - low
    scale = _stored(reach / num_steps, scale_dtype)
    if grid.symmetric:
        return Scales(scale, None, grid)
    zero_point = torch.round(grid.smallest - low / scale.to(low.dtype))
    zero_point = zero_point.clamp_(grid.smallest, grid.largest).to(torch.int8)
    return Scales(scale, zero_point, grid)


def _stored(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to ``dtype``: 1 where there is nothing to scale, never 0, never infinite."""
    rounded = scale.to(dtype).clamp(min=torch.finfo(dtype).tiny)
    if not torch.isfinite(rounded).all():
        raise SolverError(
            f"scale {float(scale.max()):g} does not fit in {dtype}; "
            "store scales as bfloat16 or float32"
        )
    return rounded.masked_fill_(scale == 0, 1.0)
