from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.grid import Grid, fit_scales

values = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=16).map(torch.tensor)


@given(
    values=values,
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)
def test_every_value_comes_back_within_its_step(values, bits, symmetric, dtype) -> None:
    grid = Grid(bits=bits, group_size=None, symmetric=symmetric)
    scales = fit_scales(values, grid=grid, scale_dtype=dtype)
    codes = scales.encode(values)
    assert codes.min() >= -(2 ** (bits - 1))
    assert codes.max() <= 2 ** (bits - 1) - 1
    assert scales.scale.dtype == dtype
    # Half a step for rounding and half for the zero point's; bfloat16 rounds the scale by 2^-9,
    # which at the far end of 2^bits steps is up to half a step more.
    bound = float(scales.scale) * (1.01 if dtype == torch.float32 else 1.51)
    assert (scales.decode(codes) - values).abs().max() <= bound


def test_symmetric_scale_is_that_of_compressed_tensors() -> None:
    grid = Grid(bits=4, group_size=None)
    scales = fit_scales(torch.tensor([-7.5, 3.0, 1.4]), grid=grid, scale_dtype=torch.float32)
    assert scales.scale.tolist() == [1.0]
    assert scales.zero_point is None
    assert scales.encode(torch.tensor([-7.5, 3.0, 1.4, 7.5])).tolist() == [-8.0, 3.0, 1.0, 7.0]


def test_asymmetric_range_holds_zero_exactly() -> None:
    grid = Grid(bits=4, group_size=None, symmetric=False)
    scales = fit_scales(torch.tensor([5.0, 15.0]), grid=grid, scale_dtype=torch.float32)
    assert scales.scale.tolist() == [1.0]
    assert scales.zero_point is not None
    assert scales.zero_point.dtype == torch.int8
    assert scales.zero_point.tolist() == [-8]
    zero = scales.decode(scales.encode(torch.zeros(1)))
    assert zero.tolist() == [0.0]


def test_codes_are_chosen_for_the_scale_that_is_stored() -> None:
    exact = torch.tensor([1.0, 0.4])
    scales = fit_scales(exact, grid=Grid(8, None), scale_dtype=torch.bfloat16)
    stored = float(torch.tensor(2 / 255).bfloat16())
    assert float(scales.scale) == stored
    assert scales.encode(exact)[1] == round(0.4 / stored)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_groups_of_zeros_and_of_next_to_nothing(symmetric: bool, dtype: torch.dtype) -> None:
    values = torch.tensor([[0.0, 0.0], [1e-12, -1e-12]])
    scales = fit_scales(values, grid=Grid(4, None, symmetric), scale_dtype=dtype)
    assert scales.scale[0].item() == 1.0
    assert scales.scale[1].item() > 0.0
    decoded = scales.decode(scales.encode(values))
    assert decoded[0].tolist() == [0.0, 0.0]
    assert decoded.isfinite().all()


def test_scales_that_overflow_are_refused() -> None:
    with pytest.raises(SolverError, match=r"does not fit in torch.float16; store scales as"):
        fit_scales(torch.tensor([1e6]), grid=Grid(4, None), scale_dtype=torch.float16)


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(SettingError, match=f"bits {bits} is out of range; give 2 to 8"):
        Grid(bits=bits)


@pytest.mark.parametrize(
    ("width", "size"), [(576, 64), (1536, 128), (96, 32), (48, 16), (50, 50), (128, 128)]
)
def test_a_group_size_may_be_chosen_by_the_width(width: int, size: int) -> None:
    assert Grid(4, "auto").group_width(width) == size
    assert Grid(4, "auto").fitted_width(width) == size


def test_group_sizes_that_do_not_fit_are_refused_with_those_that_do() -> None:
    with pytest.raises(
        SettingError, match=r"group_size 128 does not divide width 576; .*16, 32, 48, 64, 96, 192;"
    ):
        Grid(group_size=128).group_width(576)
    with pytest.raises(SettingError, match=r"width 7; sizes that do: none of the usual sizes"):
        Grid(group_size=2).group_width(7)
    with pytest.raises(SettingError, match=r"group_size 0 is out of range"):
        Grid(group_size=0)
    assert Grid(group_size=64).group_width(576) == 64
    assert Grid(group_size=None).group_width(7) == 7


def test_a_signed_scale_puts_the_extra_code_on_the_greater_side() -> None:
    grid = Grid(4, None, signed=True)
    values = torch.tensor([[16.0, -6.0], [-16.0, 6.0], [0.0, 0.0]])
    scales = fit_scales(values, grid=grid, scale_dtype=torch.float32)
    assert scales.scale.flatten().tolist() == [-2.0, 2.0, 1.0]
    assert scales.encode(values).tolist() == [[-8.0, 3.0], [-8.0, 3.0], [0.0, 0.0]]


def test_a_signed_asymmetric_grid_is_refused() -> None:
    with pytest.raises(SettingError, match="cannot be signed and asymmetric"):
        Grid(4, None, symmetric=False, signed=True)


def test_uneven_levels() -> None:
    """IQ4_NL: the nearest level in units of the scale; a group of zeros stays almost zero."""
    grid = Grid.named("iq4_nl")
    assert (grid.smallest, grid.largest, grid.exact_zero) == (-127, 113, False)
    values = torch.tensor([-200.0, -116.0, -115.0, -5.0, 0.0, 7.5, 200.0])
    assert grid.nearest_(values).tolist() == [-127, -127, -104, -10, 1, 13, 113]
    scales = fit_scales(torch.zeros(1, 32), grid=grid, scale_dtype=torch.float16)
    assert 0 < scales.decode(scales.encode(torch.zeros(1, 32))).abs().max() < 1e-6


def test_named_grids() -> None:
    assert Grid.named("q4_0").scale_dtype == torch.float16
    assert (Grid.named("q4_k").smallest, Grid.named("q4_k").largest) == (0, 15)
    with pytest.raises(SettingError, match=r"'q5_1' is not known; take .*q4_0, q5_0, q8_0, iq4_nl"):
        Grid.named("q5_1")
