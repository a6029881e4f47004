"""Packing integer codes into ggml's blocks, bit for bit: readers compute the quantised weights.

All functions return uint8 [rows, bytes per row], in ggml's layouts. A block of 32 columns starts
with a float16 scale. Codes of less than a byte are stored in pairs: the first half of the block in
the low bits, the second half in the high bits. Super-blocks of 256 columns are packed by
`ggml_super_blocks`.
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
from .ggml_super_blocks import pack_q2_k, pack_q3_k, pack_q4_k, pack_q5_k, pack_q6_k
from .ggml_types import GgmlKind, smallest_kind

_COLUMNS = 32  # columns of a block (not of a super-block)
# The smallest type of one scale for 32 columns that has all codes of so many bits.
_BY_BITS: Mapping[int, GgmlKind] = MappingProxyType(
    {
        **dict.fromkeys((2, 3, 4), "q4_0"),
        5: "q5_0",
        **dict.fromkeys((6, 7, 8), "q8_0"),
    }
)


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

    For ggml blocks that is their own type. Integer codes without zero points are stored exactly as
    Q4_0 (up to 4 bits), Q5_0 or Q8_0 if their groups consist of whole blocks of 32 and float16
    represents their scales exactly.
    """
    if isinstance(ref, GgmlBlocks):
        return smallest_kind([ref.kind])
    if not isinstance(ref, checkpoints.Quantized) or not ref.symmetric:
        return None
    if ref.is_float or ref.float4 is not None:
        return None
    if ref.group_size % _COLUMNS:
        return None
    scales = ref.scales
    fits = torch.equal(scales, scales.to(torch.float16).to(scales.dtype))
    return _BY_BITS.get(ref.bits) if fits else None


def exact_blocks(ref: TensorRef) -> Tensor:
    """Return the blocks of a weight that has an `exact_kind`, uint8 [rows, bytes per row]."""
    if isinstance(ref, GgmlBlocks):
        return ref.blocks.cpu()
    kind = exact_kind(ref)
    assert isinstance(ref, checkpoints.Quantized)
    assert kind is not None
    parts = ref.parts()  # read once
    scales = parts["scales"].repeat_interleave(ref.group_size // _COLUMNS, dim=1)
    return pack(QuantizedWeight(parts["codes"], scales, None, Grid.named(kind))).cpu()


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


def _iq4_nl(codes: QuantizedWeight) -> Tensor:
    """Pack IQ4_NL: the places of the codes among the grid's levels."""
    rows, groups = codes.scales.shape
    levels = torch.tensor(codes.grid.levels, dtype=torch.int8, device=codes.codes.device)
    places = torch.searchsorted(levels, codes.codes.contiguous()).to(torch.uint8)
    return _rows(_halves(codes.scales), _nibbles(places.view(rows, groups, _COLUMNS)))


_PACKERS: Mapping[GgmlKind, Callable[[QuantizedWeight], Tensor]] = MappingProxyType(
    {
        "q4_0": _q4_0,
        "q5_0": _q5_0,
        "q8_0": _q8_0,
        "iq4_nl": _iq4_nl,
        "q2_k": pack_q2_k,
        "q3_k": pack_q3_k,
        "q4_k": pack_q4_k,
        "q5_k": pack_q5_k,
        "q6_k": pack_q6_k,
    }
)
