"""The grids of FP4: numbers, scales, and the search of scales."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from birdbone.errors import SettingError
from birdbone.solvers.float4 import MXFP4, float4_name, nvfp4_grid
from birdbone.solvers.gptq import quantize_gptq
from birdbone.solvers.gram import Gram
from birdbone.solvers.grid import Grid
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest

NUMBERS = {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0}
BOTH = pytest.mark.parametrize("name", ["mxfp4", "nvfp4"])


def grid_of(name: str, weight: torch.Tensor) -> Grid:
    return MXFP4 if name == "mxfp4" else nvfp4_grid(float(weight.abs().max()))


def drawn(rows: int = 8, width: int = 64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, width, generator=generator)
    return weight * torch.rand(rows, 1, generator=generator) * 10


def inputs(width: int = 64) -> Gram:
    rows = torch.randn(200, width, generator=torch.Generator().manual_seed(1))
    rows = rows @ torch.randn(width, width, generator=torch.Generator().manual_seed(2))
    return Gram(rows.T @ rows, 200)


@BOTH
@pytest.mark.parametrize("method", [quantize_round_to_nearest, quantize_gptq])
def test_values_are_numbers_times_stored_scales(name: str, method) -> None:
    weight = drawn()
    grid = grid_of(name, weight)
    found = method(weight, inputs(), grid=grid, scale_dtype=torch.bfloat16)
    assert {abs(code) / 2 for code in found.codes.unique().tolist()} <= NUMBERS
    scales = found.scales.float() * 2
    steps = scales if name == "mxfp4" else scales / grid.scale_unit / 2
    if name == "mxfp4":
        assert (torch.frexp(steps)[0] == 0.5).all()
    else:
        assert torch.equal(steps.to(torch.float8_e4m3fn).float(), steps)
    values = found.dequantize()
    assert torch.equal(found.dequantize(torch.bfloat16).float(), values)
    assert (values - weight).norm() < 0.2 * weight.norm()


@BOTH
@given(seed=st.integers(0, 99))
def test_codes_are_the_nearest(name: str, seed: int) -> None:
    weight = drawn(seed=seed)
    grid = grid_of(name, weight)
    found = quantize_round_to_nearest(weight, grid=grid)
    scales = found.scales.repeat_interleave(grid.group_size, 1).unsqueeze(-1)
    every = torch.tensor(grid.levels) * scales
    nearest = (every - weight.unsqueeze(-1)).abs().amin(-1)
    assert torch.equal((found.dequantize() - weight).abs(), nearest)


@BOTH
@given(seed=st.integers(0, 99))
def test_searched_scales_are_never_worse_and_better_for_inputs_that_differ(
    name: str, seed: int
) -> None:
    weight = drawn(seed=seed)
    weight[:, ::16] *= 3
    energy = torch.ones(64)
    energy[::16] = 1e-3  # inputs of the largest weights are small
    grid, errors = grid_of(name, weight), []
    for rule in ("minmax", "searched"):
        gram = Gram(energy.diag(), 200)
        found = quantize_round_to_nearest(weight, gram, grid=grid, scales=rule)
        lost = (found.dequantize() - weight).square() * (energy + 0.01 * energy.mean())
        errors.append(lost.unflatten(1, (-1, grid.group_size)).sum(-1))
    assert (errors[1] <= errors[0] * (1 + 1e-6)).all()
    assert errors[1].sum() < errors[0].sum()


@BOTH
def test_gptq_and_sweeps_lower_the_output_error(name: str) -> None:
    weight, gram = drawn(), inputs()
    grid = grid_of(name, weight)
    nearest = quantize_round_to_nearest(weight, gram, grid=grid, scales="searched")
    plain = quantize_gptq(weight, gram, grid=grid)
    swept = quantize_gptq(weight, gram, grid=grid, sweeps=2)
    assert swept.relative_error < plain.relative_error < nearest.relative_error
    assert {abs(code) / 2 for code in swept.codes.unique().tolist()} <= NUMBERS


@BOTH
def test_zeros_stay_zero(name: str) -> None:
    weight = drawn()
    mask = weight > 0
    mask[3] = False
    grid = grid_of(name, weight)
    found = quantize_gptq(weight, inputs(), grid=grid, mask=mask)
    assert (found.dequantize()[~mask] == 0).all()
    assert (found.scales[3] == grid.scale_unit).all()  # which is always one that can be stored


@BOTH
def test_widths_that_groups_do_not_divide_are_refused(name: str) -> None:
    grid = grid_of(name, drawn())
    said = f"groups of {grid.group_size}, which the format fixes, do not divide width 40"
    with pytest.raises(SettingError, match=said):
        quantize_round_to_nearest(drawn(width=40), grid=grid)


def test_grids_have_names() -> None:
    assert [float4_name(each) for each in (MXFP4, nvfp4_grid(3.0), Grid(4, 32))] == [
        "mxfp4",
        "nvfp4",
        None,
    ]
