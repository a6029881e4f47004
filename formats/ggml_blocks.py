"""Packing integer codes into ggml's blocks, bit for bit: readers compute the quantised weights.

All functions return uint8 [rows, bytes per row], in ggml's layouts. A block of 32 columns starts
with a float16 scale; a super-block of 256 columns starts with one or two float16 factors of its
smaller scales. Codes of less than a byte are stored in pairs: the first half of the block in the
low bits, the second half in the high bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from .. import checkpoints
from ..checkpoints import GgmlBlocks, TensorRef
from ..errors import SettingError
from ..solvers.grid import Grid
from ..solvers.results import QuantizedWeight
from .ggml_types import GgmlKind, smallest_kind

_COLUMNS = 32  # columns of a block (not of a super-block)
_BY_BITS: Mapping[int, GgmlKind] = MappingProxyType({4: "q4_0", 8: "q8_0"})


def kind_of_grid(grid: Grid) -> GgmlKind | None:
    """Return the ggml type that stores codes on this grid, or None if there is none."""
    return next((kind for kind in _PACKERS if Grid.named(kind) == grid), None)


def pack(codes: QuantizedWeight) -> Tensor:
    """Return the blocks of a quantised weight, uint8 [rows, bytes per row].

    Raises:
        SettingError: the grid is not one of ggml's.
    """
    kind = kind_of_grid(codes.grid)
    if kind is None:
        raise SettingError(
            f"codes on {codes.grid} do not fit any ggml type; quantise to one of "
            f"{', '.join(_PACKERS)}"
        )
    return _PACKERS[kind](codes)


def exact_kind(ref: TensorRef) -> GgmlKind | None:
    """Return the ggml type whose blocks store this weight without any change, or None.

    For ggml blocks that is their own type. Integer codes of 4 and 8 bits without zero points are
    stored exactly as Q4_0 and Q8_0 if their groups consist of whole blocks of 32 and float16
    represents their scales exactly.
    """
    if isinstance(ref, GgmlBlocks):
        return smallest_kind([ref.kind])
    if not isinstance(ref, checkpoints.Quantized) or not ref.symmetric:
        return None
    fits = ref.group_size % _COLUMNS == 0 and torch.equal(
        ref.scales, ref.scales.to(torch.float16).to(ref.scales.dtype)
    )
    return _BY_BITS.get(ref.bits) if fits else None


def exact_blocks(ref: TensorRef) -> Tensor:
    """Return the blocks of a weight that has an `exact_kind`, uint8 [rows, bytes per row]."""
    if isinstance(ref, GgmlBlocks):
        return ref.blocks.cpu()
    kind = exact_kind(ref)
    assert isinstance(ref, checkpoints.Quantized)
    assert kind is not None
    scales = ref.scales.repeat_interleave(ref.group_size // _COLUMNS, dim=1)
    return pack(QuantizedWeight(ref.codes, scales, None, Grid.named(kind))).cpu()


def _in_blocks(codes: QuantizedWeight) -> Tensor:
    """Return codes [rows, blocks, 32] as unsigned integers, counted from the smallest code."""
    rows, groups = codes.scales.shape
    counted = (codes.codes.to(torch.int16) - codes.grid.smallest).to(torch.uint8)
    return counted.view(rows, groups, _COLUMNS)


def _halves(values: Tensor) -> Tensor:
    """Return the two bytes of each value as float16, [..., 2]."""
    return values.to(torch.float16).contiguous().view(torch.uint8).view(*values.shape, 2)


def _nibbles(codes: Tensor) -> Tensor:
    """Pack the two halves of the last axis as low and high four bits of bytes."""
    low, high = codes.chunk(2, dim=-1)
    return (low & 15) | ((high & 15) << 4)


def _rows(*parts: Tensor) -> Tensor:
    """Join the parts of each block, then the blocks of each row."""
    return torch.cat(parts, dim=-1).flatten(1).contiguous()


def _q4_0(codes: QuantizedWeight) -> Tensor:
    return _rows(_halves(codes.scales), _nibbles(_in_blocks(codes)))


def _q5_0(codes: QuantizedWeight) -> Tensor:
    """Pack Q5_0: the fifth bits of a block are four separate bytes, one bit per column."""
    blocks = _in_blocks(codes)
    weights = (1 << torch.arange(8)).to(blocks.device)
    fifth = ((blocks >> 4).unflatten(-1, (4, 8)) * weights).sum(-1).to(torch.uint8)
    return _rows(_halves(codes.scales), fifth, _nibbles(blocks))


def _q8_0(codes: QuantizedWeight) -> Tensor:
    rows, groups = codes.scales.shape
    return _rows(_halves(codes.scales), codes.codes.view(rows, groups, _COLUMNS).view(torch.uint8))


def _q4_k(codes: QuantizedWeight) -> Tensor:
    """Pack Q4_K: eight scales and eight minimums of six bits take twelve bytes."""
    blocks, rows = codes.super_blocks, codes.codes.shape[0]
    assert blocks is not None  # the grid has super-blocks
    scale = blocks.scale_steps.view(rows, -1, 8)
    minimum = blocks.minimum_steps.view(rows, -1, 8)
    first, last = scale[..., :4], scale[..., 4:]
    first_minimum, last_minimum = minimum[..., :4], minimum[..., 4:]
    six_bits = (
        first | (last >> 4 << 6),
        first_minimum | (last_minimum >> 4 << 6),
        (last & 15) | ((last_minimum & 15) << 4),
    )
    quarters = codes.codes.view(torch.uint8).view(rows, -1, 4, 64)
    units = _halves(blocks.scale_unit), _halves(blocks.minimum_unit)
    return _rows(*units, *six_bits, _nibbles(quarters).flatten(-2))


_PACKERS: Mapping[GgmlKind, Callable[[QuantizedWeight], Tensor]] = MappingProxyType(
    {"q4_0": _q4_0, "q5_0": _q5_0, "q8_0": _q8_0, "q4_k": _q4_k}
)
