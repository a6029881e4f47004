"""Codes as ggml's blocks, to the bit: what a reader computes is what was solved for.

All functions return uint8 [rows, bytes of a row]. Layouts are ggml's: a block of 32 columns opens
with a float16 scale; a super-block of 256 with one or two float16 that its smaller scales are
multiples of. Codes of less than a byte lie in halves of a block side by side: the first half in the
low bits, the second in the high.
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

_COLUMNS = 32  # of a block that is no super-block
_BY_BITS: Mapping[int, GgmlKind] = MappingProxyType({4: "q4_0", 8: "q8_0"})


def kind_of(grid: Grid) -> GgmlKind | None:
    """The ggml type whose grid it is, if any."""
    return next((kind for kind in _PACKERS if Grid.named(kind) == grid), None)


def pack(codes: QuantizedWeight) -> Tensor:
    """The blocks of a solved weight.

    Raises:
        SettingError: codes on a grid that is none of ggml's.
    """
    kind = kind_of(codes.grid)
    if kind is None:
        raise SettingError(
            f"codes on {codes.grid} are on none of ggml's grids; solve for one of "
            f"{', '.join(_PACKERS)}"
        )
    return _PACKERS[kind](codes)


def held_kind(ref: TensorRef) -> GgmlKind | None:
    """The ggml type whose blocks hold a stored weight exactly as it is, if any.

    That is what it has already, or Q4_0 and Q8_0 for codes of 4 and 8 bits without zero points
    whose groups are made of whole blocks and whose scales float16 holds.
    """
    if isinstance(ref, GgmlBlocks):
        return smallest_kind([ref.kind])
    if not isinstance(ref, checkpoints.Quantized) or not ref.symmetric:
        return None
    fits = ref.group_size % _COLUMNS == 0 and torch.equal(
        ref.scales, ref.scales.to(torch.float16).to(ref.scales.dtype)
    )
    return _BY_BITS.get(ref.bits) if fits else None


def held_blocks(ref: TensorRef) -> Tensor:
    """The blocks of a weight that has a `held_kind`."""
    if isinstance(ref, GgmlBlocks):
        return ref.blocks.cpu()
    kind = held_kind(ref)
    assert isinstance(ref, checkpoints.Quantized)
    assert kind is not None
    scales = ref.scales.repeat_interleave(ref.group_size // _COLUMNS, dim=1)
    return pack(QuantizedWeight(ref.codes, scales, None, Grid.named(kind))).cpu()


def _in_blocks(codes: QuantizedWeight) -> Tensor:
    """Codes [rows, blocks, 32], counted from the least."""
    rows, groups = codes.scales.shape
    counted = (codes.codes.to(torch.int16) - codes.grid.smallest).to(torch.uint8)
    return counted.view(rows, groups, _COLUMNS)


def _halves(values: Tensor) -> Tensor:
    """The two bytes of each float16, [..., 2]."""
    return values.to(torch.float16).contiguous().view(torch.uint8).view(*values.shape, 2)


def _nibbles(codes: Tensor) -> Tensor:
    """Two codes a byte along the last axis."""
    low, high = codes.chunk(2, dim=-1)
    return (low & 15) | ((high & 15) << 4)


def _rows(*parts: Tensor) -> Tensor:
    """Parts of each block joined, and blocks of each row."""
    return torch.cat(parts, dim=-1).flatten(1).contiguous()


def _q4_0(codes: QuantizedWeight) -> Tensor:
    return _rows(_halves(codes.scales), _nibbles(_in_blocks(codes)))


def _q5_0(codes: QuantizedWeight) -> Tensor:
    """The fifth bits of a block are four bytes of their own, column by column."""
    blocks = _in_blocks(codes)
    weights = (1 << torch.arange(8)).to(blocks.device)
    fifth = ((blocks >> 4).unflatten(-1, (4, 8)) * weights).sum(-1).to(torch.uint8)
    return _rows(_halves(codes.scales), fifth, _nibbles(blocks))


def _q8_0(codes: QuantizedWeight) -> Tensor:
    rows, groups = codes.scales.shape
    return _rows(_halves(codes.scales), codes.codes.view(rows, groups, _COLUMNS).view(torch.uint8))


def _q4_k(codes: QuantizedWeight) -> Tensor:
    """Eight scales and eight minimums of six bits are twelve bytes."""
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
