"""A float8 weight holds the nearest numbers that its format has, row by row or block by block."""

from __future__ import annotations

import pytest
import torch

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.float8 import round_to_float8

FLOAT8 = torch.float8_e4m3fn
EVERY = torch.arange(256, dtype=torch.uint8).view(FLOAT8).float()
NUMBERS = EVERY[EVERY.isfinite()].unique()  # all that float8 represents, ascending


def drawn(rows: int = 6, width: int = 32) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16])
def test_each_value_is_the_nearest_of_its_row(scale_dtype: torch.dtype) -> None:
    weight = drawn()
    found = round_to_float8(weight, scale_dtype=scale_dtype)
    assert (found.codes.dtype, found.scales.dtype) == (FLOAT8, scale_dtype)
    assert found.scales.shape == (6, 1)
    grid = NUMBERS * found.scales.float()  # [rows, numbers]
    nearest = (weight.unsqueeze(2) - grid.unsqueeze(1)).abs().amin(2)
    error = (weight - found.dequantize()).abs()
    assert torch.allclose(error, nearest, rtol=0, atol=1e-6)  # float32 of a sum near 3


def test_the_largest_of_a_row_is_the_largest_number() -> None:
    found = round_to_float8(drawn(), scale_dtype=torch.float32)
    assert (found.codes.float().abs().amax(1) == 448).all()


@pytest.mark.parametrize("shape", [(32, 32), (20, 32), (20, 40), (5, 7)])
def test_a_block_is_rounded_as_one_row(shape: tuple[int, int]) -> None:
    weight, size = drawn(*shape), 16
    found = round_to_float8(weight, scale_dtype=torch.bfloat16, block_size=size)
    values = found.dequantize()
    for top in range(0, shape[0], size):
        for left in range(0, shape[1], size):
            here = slice(top, top + size), slice(left, left + size)
            alone = round_to_float8(weight[here].reshape(1, -1), scale_dtype=torch.bfloat16)
            assert torch.equal(found.scales[top // size, left // size], alone.scales[0, 0])
            assert torch.equal(values[here].reshape(1, -1), alone.dequantize())


def test_zeros_stay_zero() -> None:
    weight = drawn()
    weight[2] = 0
    mask = drawn() > 0
    found = round_to_float8(weight, scale_dtype=torch.float32, mask=mask)
    assert (found.dequantize()[~mask] == 0).all()
    assert found.scales[2] == 1
    assert (found.dequantize()[2] == 0).all()
    assert (found.codes.float()[mask] != 0).sum() > 50


def test_the_weight_is_not_changed() -> None:
    weight = drawn()
    round_to_float8(weight, scale_dtype=torch.float32, mask=weight > 0)
    assert torch.equal(weight, drawn())


def test_what_cannot_be_rounded_is_refused() -> None:
    with pytest.raises(SolverError, match=r"does not fit in torch\.float16"):
        round_to_float8(torch.full((1, 4), 1e8), scale_dtype=torch.float16)
    with pytest.raises(SolverError, match="finite"):
        round_to_float8(torch.full((1, 4), torch.inf), scale_dtype=torch.float32)
    with pytest.raises(SettingError, match="mask"):
        round_to_float8(drawn(), scale_dtype=torch.float32, mask=torch.ones(1, dtype=torch.bool))
