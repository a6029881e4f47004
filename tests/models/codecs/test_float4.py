"""FP4 numbers and scales against their definitions, computed bit by bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from birdbone.checkpoints import InMemory
from birdbone.errors import CheckpointError
from birdbone.models.codecs.float4 import (
    Float4,
    float_scales,
    holds_float4,
    pack_e2m1,
    unpack_e2m1,
)


def e2m1(code: int) -> float:
    """A sign, two bits of exponent with bias 1, one bit of mantissa; OCP MX 1.0, 5.3.3."""
    sign, exponent, mantissa = code >> 3, (code >> 1) & 3, code & 1
    # Without an exponent the number is subnormal.
    magnitude = 2.0 ** (exponent - 1) * (1 + mantissa / 2) if exponent else mantissa / 2
    return -magnitude if sign else magnitude


CODES = [0, 1, 2, 3, 4, 6, 8, 12, -1, -2, -3, -4, -6, -8, -12, 0]


def test_packed_numbers_are_unpacked_again() -> None:
    codes = torch.tensor([CODES, CODES[::-1]], dtype=torch.int8)
    packed = pack_e2m1(codes)
    assert (packed.dtype, packed.shape) == (torch.uint8, (2, 8))
    assert torch.equal(2 * unpack_e2m1(packed), codes.float())


@pytest.mark.parametrize(
    ("settings", "holds"),
    [
        ({"format": "mxfp4-pack-quantized"}, True),
        ({"config_groups": {"a": {}, "b": {"format": "nvfp4-pack-quantized"}}}, True),
        ({"format": "pack-quantized", "config_groups": 3}, False),
        ([1], False),
    ],
)
def test_a_config_says_whether_it_holds_them(settings: object, holds: bool) -> None:
    assert holds_float4({"quantization_config": settings}) is holds
    assert not holds_float4(settings)


def test_every_byte_holds_two_numbers_the_low_bits_first() -> None:
    found = unpack_e2m1(torch.arange(256, dtype=torch.uint8).unsqueeze(0))
    wanted = [e2m1(half) for byte in range(256) for half in (byte & 15, byte >> 4)]
    assert found.tolist() == [wanted]


def test_bytes_are_exponents_of_two_and_numbers_are_themselves() -> None:
    exponents = torch.tensor([1, 126, 127, 128, 254], dtype=torch.uint8)
    assert float_scales(exponents).tolist() == [2.0 ** (int(e) - 127) for e in exponents]
    assert float_scales(torch.tensor([0.5]).to(torch.float8_e4m3fn)).tolist() == [0.5]


def brute(packed: Tensor, scale: Tensor, divisor: float) -> list[list[float]]:
    """Each value by its own: the number times the scale of its group."""
    rows, groups = scale.shape
    width = 2 * packed.shape[1] // groups
    return [
        [
            e2m1((int(packed[row, column // 2]) >> (4 * (column % 2))) & 15)
            * (float(scale[row, column // width]) / divisor)
            for column in range(2 * packed.shape[1])
        ]
        for row in range(rows)
    ]


@pytest.mark.parametrize("divisor", [None, 8.0])
def test_a_value_is_its_number_times_the_scale_of_its_group(divisor: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    packed = torch.randint(256, (3, 8), generator=generator, dtype=torch.uint8)
    scale = 2.0 ** torch.randint(-2, 3, (3, 4), generator=generator).float()
    parts = {"packed": InMemory(packed), "scale": InMemory(scale)}
    if divisor is not None:
        parts["global_scale"] = InMemory(torch.tensor([divisor]))
    weight = Float4("w", parts)
    assert weight.load().tolist() == brute(packed, scale, divisor or 1.0)
    assert (weight.shape, weight.dtype) == ((3, 16), torch.float32)


@pytest.mark.parametrize(
    ("packed", "scale", "divisor", "message"),
    [
        (None, torch.ones(2, 1), None, "'w' lacks its codes"),
        (torch.zeros(2, 8, dtype=torch.uint8), None, None, "'w' lacks its scales"),
        (torch.zeros(2, 8), torch.ones(2, 1), None, "which is not a packed FP4 weight"),
        (torch.zeros(2, 8, dtype=torch.uint8), torch.ones(3, 1), None, "scales .3, 1., which"),
        (torch.zeros(2, 8, dtype=torch.uint8), torch.ones(2, 3), None, "scales .2, 3., which"),
        (torch.zeros(2, 8, dtype=torch.uint8), torch.ones(2, 0), None, "scales .2, 0., which"),
        (torch.zeros(2, 8, dtype=torch.uint8), torch.ones(2, 1), torch.ones(2), "2 global scales"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    packed: Tensor | None, scale: Tensor | None, divisor: Tensor | None, message: str
) -> None:
    named = {"packed": packed, "scale": scale, "global_scale": divisor}
    parts = {name: InMemory(part) for name, part in named.items() if part is not None}
    with pytest.raises(CheckpointError, match=message):
        Float4("w", parts)
