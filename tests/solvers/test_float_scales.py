"""Scales are rounded to the nearest that 8 bits hold."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.quantization.utils.mxfp_utils import generate_mx_scales
from hypothesis import given
from hypothesis import strategies as st

from birdbone.solvers.float_scales import e4m3_unit, nearest_scale


@given(seed=st.integers(0, 2**32), exponent=st.integers(-20, 10))
def test_powers_of_two_are_those_of_compressed_tensors(seed: int, exponent: int) -> None:
    largest = torch.rand(64, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent + 1e-9
    found = nearest_scale(largest / 12, "e8m0", 1.0)  # of twice the numbers, up to 12
    assert torch.equal(2 * found, 2.0 ** (generate_mx_scales(largest) - 127))


@pytest.mark.parametrize("unit", [2.0**-14, 1.0, 2.0**3])
def test_e4m3_is_the_nearest_number(unit: float) -> None:
    numbers = torch.arange(1, 127, dtype=torch.uint8).view(torch.float8_e4m3fn).float() * unit
    scale = torch.rand(256, generator=torch.Generator().manual_seed(0)) * 500 * unit
    found = nearest_scale(scale, "e4m3", unit)
    nearest = (scale.unsqueeze(1) - numbers).abs().amin(1)
    assert torch.equal((found - scale).abs(), nearest)


@pytest.mark.parametrize("format", ["e8m0", "e4m3"])
def test_a_stored_scale_stays_and_so_does_zero(format: str) -> None:
    scale = torch.rand(64, generator=torch.Generator().manual_seed(0))
    scale[0] = 0
    found = nearest_scale(scale, format, 2.0**-9)
    assert found[0] == 0
    assert (found[1:] > 0).all()
    assert torch.equal(nearest_scale(found, format, 2.0**-9), found)
    assert torch.equal(found.bfloat16().float(), found)


@given(st.floats(1e-6, 1e6))
def test_the_unit_leaves_room_to_grow(largest: float) -> None:
    unit = e4m3_unit(largest)
    assert 112 <= largest / unit <= 224
    assert unit.hex().startswith("0x1.0000000000000p")


def test_a_weight_of_zeros_has_a_unit() -> None:
    assert e4m3_unit(0.0) == 1.0
