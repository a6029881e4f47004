"""Integer quantisation grids, and fitting scales to the minimum and maximum of a group of weights.

Codes are signed integers from -2^(bits-1) to 2^(bits-1) - 1, stored as int8.

- Symmetric grid: value = code * scale, with scale = max|w| / ((2^bits - 1) / 2), the convention of
  compressed-tensors. The range is as wide as all codes together, so both extremes are represented
  to within half a step.
- Signed scales (symmetric grids only): there is one more code below zero than above. A negative
  scale puts that extra code on the side of the larger extreme: scale = that extreme / -2^(bits-1),
  the convention of ggml's Q4_0.
- Asymmetric grid: value = (code - zero_point) * scale. The range always includes 0, and 0 is
  represented exactly.
- Grids named after ggml's block formats. Q2_K, Q4_K and Q5_K: codes are unsigned and value = code
  * scale - minimum (`super_blocks`). Q3_K and Q6_K: symmetric, with scales that are small integers
  (`signed_blocks`). IQ4_NL: signed scales, and codes that are not evenly spaced.
- MXFP4 and NVFP4 (`float4`): codes that are not evenly spaced, and scales of 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from ..errors import SettingError, SolverError
from .float_scales import ScaleFormat, nearest_scale

# Group sizes suggested in error messages.
_COMMON_GROUP_SIZES = (16, 32, 48, 64, 96, 128, 192, 256)

# What "auto" chooses from, largest first: the group sizes that runtimes have kernels for.
_AUTO_GROUP_SIZES = (128, 64, 32, 16)


@dataclass(frozen=True)
class Grid:
    """An integer quantisation grid.

    Attributes:
        bits: bits of a code, 2 to 8.
        group_size: consecutive input columns that share a scale; None for the whole row; "auto" for
            the largest of 128, 64, 32 and 16 that divides the row, or the whole row if none does.
        symmetric: whether the zero point is fixed at 0.
        signed: whether scales may be negative (symmetric grids only).
        scale_dtype: dtype the file format stores scales in; None if the caller chooses.
        super_block: consecutive input columns whose scales and minimums are stored as small
            integers, as in Q4_K; None for an ordinary grid.
        scale_bits: bits of these integers.
        levels: all codes, ascending, if they are not evenly spaced; they need more than ``bits``
            each, and files store their places.
        scale_format: how scales are stored as floats of 8 bits (`float_scales`); None if not.
        scale_unit: what scales of the format e4m3 are multiples of; 1 for others.

    Raises:
        SettingError: ``bits`` or ``group_size`` is out of range, or ``signed`` is set without
            ``symmetric``.
    """

    bits: int = 4
    group_size: int | Literal["auto"] | None = 128
    symmetric: bool = True
    signed: bool = False
    scale_dtype: torch.dtype | None = None
    super_block: int | None = None
    scale_bits: int | None = None
    levels: tuple[int, ...] | None = None
    scale_format: ScaleFormat | None = None
    scale_unit: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise SettingError(f"bits {self.bits} is out of range; give 2 to 8")
        if isinstance(self.group_size, int) and self.group_size < 1:
            raise SettingError(
                f"group_size {self.group_size} is out of range; give at least 1, or None for one "
                "scale a row"
            )
        if self.signed and not self.symmetric:
            raise SettingError(
                "a grid cannot be signed and asymmetric: a zero point already shifts the range, as "
                "a negative scale would; set one of the two"
            )

    @classmethod
    def named(cls, name: str) -> Grid:
        """Return a grid named after a ggml type, one of `NAMED_GRIDS`.

        Raises:
            SettingError: the name is not one of these.
        """
        if name not in NAMED_GRIDS:
            raise SettingError(f"grid '{name}' is not known; take one of {', '.join(NAMED_GRIDS)}")
        return NAMED_GRIDS[name]

    @property
    def smallest(self) -> int:
        """The smallest code."""
        if self.levels:
            return self.levels[0]
        return 0 if self.has_minimums else -(1 << (self.bits - 1))

    @property
    def largest(self) -> int:
        """The largest code."""
        return self.levels[-1] if self.levels else self.smallest + (1 << self.bits) - 1

    @property
    def has_minimums(self) -> bool:
        """Whether a minimum is subtracted after scaling, as in Q4_K."""
        return bool(self.super_block) and not self.symmetric

    @property
    def exact_zero(self) -> bool:
        """Whether every group represents zero exactly."""
        return not self.has_minimums and (self.levels is None or 0 in self.levels)

    def nearest_(self, values: Tensor) -> Tensor:
        """Replace values in units of the scale by the nearest codes, in place; halves go to even.

        Unevenly spaced codes: halves go to the smaller one.
        """
        if self.levels is None:
            return values.round_().clamp_(self.smallest, self.largest)
        levels = values.new_tensor(self.levels)
        middles = (levels[1:] + levels[:-1]) / 2
        return values.copy_(levels[torch.bucketize(values.contiguous(), middles)])

    def fitted_width(self, width: int) -> int:
        """Return how many columns have their scales fitted together; raises as `group_width`."""
        return self.super_block or self.group_width(width)

    def divides(self, width: int) -> bool:
        """Return whether the groups, or super-blocks, divide a row of ``width`` columns."""
        size = self.super_block or self.group_size
        return not isinstance(size, int) or width % size == 0

    def group_width(self, width: int) -> int:
        """Return the columns per group in a row of ``width`` columns.

        Raises:
            SettingError: the groups or super-blocks do not divide ``width``.
        """
        if self.group_size is None:
            return width
        if self.group_size == "auto":
            return next((size for size in _AUTO_GROUP_SIZES if width % size == 0), width)
        if self.super_block and width % self.super_block:
            raise SettingError(
                f"a grid with super-blocks of {self.super_block} does not divide width {width}; "
                f"give widths that are multiples of {self.super_block}, or another grid for this "
                "layer, such as 'q4_0' or 'q8_0'"
            )
        if width % self.group_size and self.scale_format is not None:
            raise SettingError(
                f"groups of {self.group_size}, which the format fixes, do not divide width "
                f"{width}; leave the layer out with ignore, or take another grid"
            )
        if width % self.group_size:
            fitting = [str(size) for size in _COMMON_GROUP_SIZES if width % size == 0]
            instead = ", ".join(fitting) or "none of the usual sizes"
            raise SettingError(
                f"group_size {self.group_size} does not divide width {width}; "
                f"sizes that do: {instead}; or None for one scale a row"
            )
        return self.group_size


NamedGrid = Literal["q4_0", "q5_0", "q8_0", "iq4_nl", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]

_LEAST_FLOAT16 = 2.0**-24

# ggml's kvalues_iq4nl, denser near zero.
_IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

NAMED_GRIDS: Mapping[str, Grid] = MappingProxyType(
    {
        "q4_0": Grid(4, 32, signed=True, scale_dtype=torch.float16),
        "q5_0": Grid(5, 32, signed=True, scale_dtype=torch.float16),
        "q8_0": Grid(8, 32, signed=True, scale_dtype=torch.float16),
        "iq4_nl": Grid(4, 32, signed=True, scale_dtype=torch.float16, levels=_IQ4_NL),
        "q2_k": Grid(2, 16, symmetric=False, super_block=256, scale_bits=4),
        "q3_k": Grid(3, 16, signed=True, super_block=256, scale_bits=6),
        "q4_k": Grid(4, 32, symmetric=False, super_block=256, scale_bits=6),
        "q5_k": Grid(5, 32, symmetric=False, super_block=256, scale_bits=6),
        "q6_k": Grid(6, 16, signed=True, super_block=256, scale_bits=8),
    }
)
"""By the name of the ggml type that stores codes on the grid."""


@dataclass(frozen=True, eq=False)
class SuperBlocks:
    """How scales and minimums of super-blocks are stored: integers times float16 factors.

    Attributes:
        scale_unit: float16 [out_features, super_blocks], ggml's d.
        scale_steps: [out_features, groups], never 0; scale = scale_unit * scale_steps. uint8, or
            int8 on a symmetric grid.
        minimum_unit: float16 [out_features, super_blocks], ggml's dmin; None on a symmetric grid.
        minimum_steps: uint8 [out_features, groups]; minimum = minimum_unit * minimum_steps. None
            on a symmetric grid.
    """

    scale_unit: Tensor
    scale_steps: Tensor
    minimum_unit: Tensor | None = None
    minimum_steps: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Scales:
    """Scales of groups of one grid, with their zero points or minimums if it has them.

    Attributes:
        scale: any shape, in the dtype it will be stored in; never 0, positive unless the grid is
            signed.
        zero_point: int8, same shape; None for a symmetric grid or one with minimums.
        grid: the grid.
        minimum: float32, same shape, subtracted after scaling; None for an ordinary grid.
        super_blocks: what ``scale`` and ``minimum`` are computed from; None for an ordinary grid.
    """

    scale: Tensor
    zero_point: Tensor | None
    grid: Grid
    minimum: Tensor | None = None
    super_blocks: SuperBlocks | None = None

    @classmethod
    def joined(cls, parts: Sequence[Scales], *, dim: int) -> Scales:
        """Concatenate scales of one grid along an existing axis (0 or 1 with super-blocks)."""
        points = [part.zero_point for part in parts if part.zero_point is not None]
        minimums = [part.minimum for part in parts if part.minimum is not None]
        blocks = [part.super_blocks for part in parts if part.super_blocks is not None]
        return cls(
            torch.cat([part.scale for part in parts], dim),
            torch.cat(points, dim) if points else None,
            parts[0].grid,
            torch.cat(minimums, dim) if minimums else None,
            _joined_blocks(blocks, dim=dim) if blocks else None,
        )

    def encode(self, values: Tensor) -> Tensor:
        """Return the nearest codes, as whole numbers in the dtype of ``values``; halves go to even.

        ``values`` must broadcast against `scale`.
        """
        if self.minimum is not None:
            values = values + self.minimum.to(values.dtype)
        codes = values / self.scale.to(values.dtype)
        if self.zero_point is not None:
            codes = codes.round_().add_(self.zero_point.to(values.dtype))
        return self.grid.nearest_(codes)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values of ``codes``, in the floating dtype of ``codes``."""
        if self.zero_point is not None:
            codes = codes - self.zero_point.to(codes.dtype)
        values = codes * self.scale.to(codes.dtype)
        return values if self.minimum is None else values - self.minimum.to(codes.dtype)

    def squeeze(self, dim: int) -> Scales:
        """Return a copy without the axis ``dim``, which has size 1."""
        zero_point = None if self.zero_point is None else self.zero_point.squeeze(dim)
        minimum = None if self.minimum is None else self.minimum.squeeze(dim)
        return Scales(self.scale.squeeze(dim), zero_point, self.grid, minimum, self.super_blocks)

    def unsqueeze(self, dim: int) -> Scales:
        """Return a copy with a new axis ``dim`` of size 1, to broadcast over a group's columns."""
        zero_point = None if self.zero_point is None else self.zero_point.unsqueeze(dim)
        minimum = None if self.minimum is None else self.minimum.unsqueeze(dim)
        return Scales(self.scale.unsqueeze(dim), zero_point, self.grid, minimum, self.super_blocks)


def _joined_blocks(parts: Sequence[SuperBlocks], *, dim: int) -> SuperBlocks:
    minimum_units = [part.minimum_unit for part in parts if part.minimum_unit is not None]
    minimum_steps = [part.minimum_steps for part in parts if part.minimum_steps is not None]
    return SuperBlocks(
        torch.cat([part.scale_unit for part in parts], dim),
        torch.cat([part.scale_steps for part in parts], dim),
        torch.cat(minimum_units, dim) if minimum_units else None,
        torch.cat(minimum_steps, dim) if minimum_steps else None,
    )


def fit_scales(values: Tensor, *, grid: Grid, scale_dtype: torch.dtype, dim: int = -1) -> Scales:
    """Fit scales to the minimum and maximum of ``values`` along ``dim``, which is kept with size 1.

    Scales are rounded to their storage dtype (the grid's own, or else ``scale_dtype``) before any
    code is chosen, so that the codes match the stored scale. A group of zeros gets scale 1.

    Raises:
        SolverError: a scale overflows its dtype.
    """
    low = values.amin(dim, keepdim=True).clamp_(max=0.0)
    high = values.amax(dim, keepdim=True).clamp_(min=0.0)
    num_steps = (1 << grid.bits) - 1
    if grid.signed:
        wanted = torch.where(high >= -low, high, low) / grid.smallest
    elif grid.levels:
        wanted = torch.maximum(high, -low) / grid.largest
    elif grid.symmetric:
        wanted = torch.maximum(high, -low) * 2 / num_steps
    else:
        wanted = (high - low) / num_steps
    scale = stored_scale(wanted, grid=grid, scale_dtype=scale_dtype)
    if grid.symmetric:
        return Scales(scale, None, grid)
    return Scales(scale, nearest_zero_point(low, scale, grid), grid)


def require_exact_zero(grid: Grid, mask: Tensor | None) -> None:
    """Raise SettingError if a mask is given for a grid that cannot represent zero exactly."""
    if mask is not None and not grid.exact_zero:
        what = f"super-blocks of {grid.super_block}" if grid.super_block else "uneven levels"
        raise SettingError(
            f"a grid with {what} has no exact zero, so pruned weights would not stay zero; choose "
            "another grid, such as 'q4_0'"
        )


def nearest_zero_point(low: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """Return the int8 zero point for which the smallest code decodes closest to ``low``."""
    zero_point = torch.round(grid.smallest - low / scale.to(low.dtype))
    return zero_point.clamp_(grid.smallest, grid.largest).to(torch.int8)


def stored_scale(scale: Tensor, *, grid: Grid, scale_dtype: torch.dtype) -> Tensor:
    """Round scales to their storage dtype; an exact 0 becomes 1, or the unit of the scales.

    Nothing else rounds to 0.

    On a grid without an exact zero it becomes the smallest number, so that zeros stay almost zero.

    Raises:
        SolverError: a scale overflows its dtype.
    """
    dtype = grid.scale_dtype or scale_dtype
    smallest = torch.finfo(dtype).tiny
    if grid.scale_format is not None:
        scale = nearest_scale(scale, grid.scale_format, grid.scale_unit)
    rounded = scale.to(dtype)
    rounded = torch.where(scale < 0, rounded.clamp(max=-smallest), rounded.clamp(min=smallest))
    if not torch.isfinite(rounded).all():
        raise SolverError(
            f"scale {float(scale.abs().max()):g} does not fit in {dtype}; "
            "store scales as bfloat16 or float32"
        )
    return rounded.masked_fill_(scale == 0, grid.scale_unit if grid.exact_zero else _LEAST_FLOAT16)
