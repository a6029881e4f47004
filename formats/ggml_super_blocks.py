"""Packing codes into ggml's super-blocks of 256 columns: Q2_K, Q3_K, Q4_K, Q5_K and Q6_K.

All functions return uint8 [rows, bytes per row], in ggml's layouts. Legend: d and dmin are the
float16 factors of the scales and minimums of a super-block, which are small integers themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..solvers.grid import SuperBlocks
from ..solvers.results import QuantizedWeight


def pack_q2_k(codes: QuantizedWeight) -> Tensor:
    """16 scales and 16 minimums of 4 bits share bytes; then the codes, d and dmin."""
    blocks, rows = _super_blocks(codes), codes.codes.shape[0]
    assert blocks.minimum_steps is not None
    assert blocks.minimum_unit is not None
    scales = (blocks.scale_steps | (blocks.minimum_steps << 4)).view(rows, -1, 16)
    low = _in_quarters(codes.codes.view(torch.uint8))
    return _rows(scales, low, _halves(blocks.scale_unit), _halves(blocks.minimum_unit))


def pack_q3_k(codes: QuantizedWeight) -> Tensor:
    """The third bits of all codes, their low two bits, 16 scales of 6 bits, d."""
    blocks, rows = _super_blocks(codes), codes.codes.shape[0]
    counted = (codes.codes.to(torch.int16) + 4).to(torch.uint8)
    # Column 32 i + l of a super-block has bit i of byte l.
    third = (counted >> 2).view(rows, -1, 8, 32)
    shifts = torch.arange(8, dtype=torch.uint8, device=third.device).view(8, 1)
    mask = (third << shifts).sum(-2).to(torch.uint8)
    scales = (blocks.scale_steps.to(torch.int16) + 32).to(torch.uint8).view(rows, -1, 4, 4)
    low = (scales[..., :2, :] & 15) | ((scales[..., 2:, :] & 15) << 4)
    places = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=scales.device).view(4, 1)
    high = (scales >> 4 << places).sum(-2).to(torch.uint8)
    return _rows(mask, _in_quarters(counted & 3), low.flatten(-2), high, _halves(blocks.scale_unit))


def pack_q4_k(codes: QuantizedWeight) -> Tensor:
    """d, dmin, eight scales and eight minimums of six bits in twelve bytes, and the codes."""
    units, scales, low, _ = _of_five_bits(codes)
    return _rows(units, scales, low)


def pack_q5_k(codes: QuantizedWeight) -> Tensor:
    """As Q4_K, with the fifth bits of all codes before the low four."""
    units, scales, low, fifth = _of_five_bits(codes)
    return _rows(units, scales, fifth, low)


def pack_q6_k(codes: QuantizedWeight) -> Tensor:
    """The low four bits of all codes, their high two bits, 16 scales of a byte, d."""
    blocks, rows = _super_blocks(codes), codes.codes.shape[0]
    counted = (codes.codes.to(torch.int16) + 32).to(torch.uint8)
    # Each half of a super-block consists of four quarters of 32 columns. The low four bits of the
    # first two quarters share bytes with those of the last two.
    quarters = counted.view(rows, -1, 2, 4, 32)
    first, last = quarters[..., :2, :], quarters[..., 2:, :]
    low = (first & 15) | ((last & 15) << 4)
    scales = blocks.scale_steps.view(torch.uint8).view(rows, -1, 16)
    return _rows(low.flatten(-3), _in_quarters(counted >> 4), scales, _halves(blocks.scale_unit))


def _of_five_bits(codes: QuantizedWeight) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Units, six-bit scales and minimums, low four bits and fifth bits of each super-block."""
    blocks, rows = _super_blocks(codes), codes.codes.shape[0]
    assert blocks.minimum_steps is not None
    assert blocks.minimum_unit is not None
    scale, minimum = blocks.scale_steps.view(rows, -1, 8), blocks.minimum_steps.view(rows, -1, 8)
    first, last = scale[..., :4], scale[..., 4:]
    first_minimum, last_minimum = minimum[..., :4], minimum[..., 4:]
    six_bits = (
        first | (last >> 4 << 6),
        first_minimum | (last_minimum >> 4 << 6),
        (last & 15) | ((last_minimum & 15) << 4),
    )
    counted = codes.codes.view(torch.uint8)
    halves = counted.view(rows, -1, 4, 2, 32)
    low = (halves[..., 0, :] & 15) | ((halves[..., 1, :] & 15) << 4)
    shifts = torch.arange(8, dtype=torch.uint8, device=counted.device).view(8, 1)
    fifth = ((counted.view(rows, -1, 8, 32) >> 4) << shifts).sum(-2).to(torch.uint8)
    units = torch.cat((_halves(blocks.scale_unit), _halves(blocks.minimum_unit)), -1)
    return units, torch.cat(six_bits, -1), low.flatten(-2), fifth


def _super_blocks(codes: QuantizedWeight) -> SuperBlocks:
    assert codes.super_blocks is not None  # the grid has super-blocks
    return codes.super_blocks


def _in_quarters(values: Tensor) -> Tensor:
    """Pack two-bit values: the four quarters of each half of a super-block share bytes."""
    quarters = values.view(values.shape[0], -1, 2, 4, 32)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=values.device).view(4, 1)
    return (quarters << shifts).sum(-2).to(torch.uint8).flatten(-2)


def _halves(values: Tensor) -> Tensor:
    """Return the two bytes of each value as float16, [..., 2]."""
    return values.to(torch.float16).contiguous().view(torch.uint8).view(*values.shape, 2)


def _rows(*parts: Tensor) -> Tensor:
    """Join the parts of each super-block, then the super-blocks of each row."""
    return torch.cat(parts, dim=-1).flatten(1).contiguous()
