"""Learned rounding: where it starts, where it may go, and that it goes downhill."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.factor import factorize
from birdbone.solvers.gptq import quantize_gptq
from birdbone.solvers.grid import Grid
from birdbone.solvers.learned_rounding import LearnedRounding
from birdbone.solvers.output_error import relative_output_error
from birdbone.solvers.results import QuantizedWeight
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest

GRIDS = {
    "int2": Grid(2, 4),
    "int3 asymmetric": Grid(3, 8, symmetric=False),
    "int4": Grid(4, 16),
    "int4 signed": Grid(4, 8, signed=True),
    "int8 asymmetric": Grid(8, None, symmetric=False),
}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def start(make_layer, grid: Grid, *, scale_dtype=torch.float32, mask=None):  # type: ignore[no-untyped-def]
    """A layer [12, 16], its GPTQ codes, and a learned rounding that starts at them."""
    layer = make_layer(12, 16, dtype=torch.float32)
    weight = layer.weight if mask is None else layer.weight * mask
    codes = quantize_gptq(
        weight,
        None,
        grid=grid,
        scale_dtype=scale_dtype,
        mask=mask,
        factor=factorize(layer.gram, descending=True),
        order="static",
    )
    return layer, codes, learned(weight, codes)


def learned(weight: Tensor, codes: QuantizedWeight) -> LearnedRounding:
    """A rounding that starts at these codes."""
    return LearnedRounding(
        weight, codes.codes, codes.scales, codes.zero_points, bits=codes.grid.bits
    )


def noise(shape: torch.Size, seed: int) -> Tensor:
    """A gradient of nothing in particular."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@every_grid
@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_starts_at_exactly_the_codes_given(make_layer, grid, scale_dtype) -> None:  # type: ignore[no-untyped-def]
    _, codes, rounding = start(make_layer, grid, scale_dtype=scale_dtype)
    assert torch.equal(rounding.codes, codes.codes)
    assert torch.equal(rounding.scales, codes.scales)
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(rounding.values(dtype), codes.dequantize(dtype))


@every_grid
def test_whatever_the_gradient_codes_and_scales_can_be_stored(make_layer, grid) -> None:  # type: ignore[no-untyped-def]
    _, codes, rounding = start(make_layer, grid, scale_dtype=torch.bfloat16)
    for seed in range(20):
        rounding.step(noise(codes.codes.shape, seed), rate=0.5)
    assert rounding.codes.dtype == torch.int8
    assert not torch.equal(rounding.codes, codes.codes)
    assert int(rounding.codes.min()) >= grid.smallest
    assert int(rounding.codes.max()) <= grid.largest
    assert rounding.scales.dtype == torch.bfloat16
    assert not torch.equal(rounding.scales, codes.scales)
    assert torch.equal(rounding.scales.sign(), codes.scales.sign())
    stored = QuantizedWeight(rounding.codes, rounding.scales, codes.zero_points, grid)
    assert torch.equal(rounding.values(torch.float32), stored.dequantize())


@every_grid
def test_steps_along_the_gradient_of_an_error_make_it_smaller(make_layer, grid) -> None:  # type: ignore[no-untyped-def]
    layer = make_layer(12, 16, dtype=torch.float32)
    codes = quantize_round_to_nearest(layer.weight, None, grid=grid)
    rounding = learned(layer.weight, codes)
    for done in range(200):
        change = rounding.values(torch.float32) - layer.weight
        rounding.step(change @ layer.gram.matrix, rate=0.5 / 200 * (1 - done / 200))
    before, after = error_of(codes.dequantize(), layer), error_of(
        rounding.values(torch.float32), layer
    )
    assert after < 0.95 * before


def error_of(values: Tensor, layer) -> float:  # type: ignore[no-untyped-def]
    """How far the outputs are from the weight's own."""
    return relative_output_error(layer.weight, values, layer.gram)


def test_a_steady_gradient_moves_a_code_to_the_neighbour_it_points_to() -> None:
    weight = torch.tensor([[0.4, -0.4, 0.0, 2.0]])
    codes = torch.tensor([[0, 0, 0, 2]], dtype=torch.int8)
    scales = torch.tensor([[1.0]])
    rounding = LearnedRounding(weight, codes, scales, bits=4)
    for _ in range(4):
        rounding.step(torch.tensor([[-1.0, 1.0, -1.0, 0.0]]), rate=0.1)
    assert rounding.codes.tolist() == [[1, -1, 0, 2]]


def test_a_negative_scale_turns_the_way_round() -> None:
    weight = torch.tensor([[0.4]])
    codes, scales = torch.zeros(1, 1, dtype=torch.int8), torch.tensor([[-1.0]])
    rounding = LearnedRounding(weight, codes, scales, bits=4)
    for _ in range(4):
        rounding.step(torch.tensor([[-1.0]]), rate=0.1)
    assert rounding.codes.tolist() == [[-1]]


def test_a_scale_grows_where_larger_weights_are_wanted() -> None:
    weight = torch.tensor([[3.0, -3.0, 3.0, -3.0]])
    codes, scales = weight.to(torch.int8), torch.tensor([[1.0, 1.0]])
    rounding = LearnedRounding(weight, codes, scales, bits=4)
    rounding.step(torch.tensor([[-1.0, 1.0, 1.0, -1.0]]), rate=0.1)
    assert rounding.scales[0, 0] > 1 > rounding.scales[0, 1]


@pytest.mark.parametrize("grid", [Grid(4, 8), Grid(3, 8, symmetric=False)])
def test_weights_that_were_pruned_stay_exactly_zero(make_layer, grid) -> None:  # type: ignore[no-untyped-def]
    mask = noise(torch.Size((12, 16)), 7) > 0
    _, _, rounding = start(make_layer, grid, mask=mask)
    for seed in range(20):
        rounding.step(noise(mask.shape, seed), rate=0.5)
    values = rounding.values(torch.float32)
    assert not values[~mask].any()
    assert values[mask].count_nonzero() > 0.5 * mask.sum()


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e-12, 1.0, 1e12])
def test_a_gradients_size_does_not_matter(size) -> None:  # type: ignore[no-untyped-def]
    codes, scales = torch.zeros(1, 2, dtype=torch.int8), torch.ones(1, 1)
    rounding = LearnedRounding(torch.zeros(1, 2) + 0.4, codes, scales, bits=4)
    for _ in range(4):
        rounding.step(torch.tensor([[-size, 0.0]]), rate=0.1)
    assert rounding.codes.tolist() == [[1, 0]]
    assert torch.isfinite(rounding.scales).all()


def test_a_scale_that_would_leave_its_dtype_stays() -> None:
    scales = torch.tensor([[65504.0]], dtype=torch.float16)
    codes = torch.tensor([[3, 3]], dtype=torch.int8)
    rounding = LearnedRounding(torch.tensor([[3.0, 3.0]]) * 65504, codes, scales, bits=4)
    for _ in range(4):
        rounding.step(torch.tensor([[-1.0, -1.0]]), rate=0.1)
    assert torch.equal(rounding.scales, scales)


def test_what_it_is_given_is_left_as_it_was(make_layer) -> None:  # type: ignore[no-untyped-def]
    layer, codes, _ = start(make_layer, GRIDS["int3 asymmetric"])
    gradient = noise(codes.codes.shape, 1)
    given = [layer.weight, codes.codes, codes.scales, codes.zero_points, gradient]
    before = [each.clone() for each in given]
    rounding = learned(layer.weight, codes)
    rounding.step(gradient, rate=0.5)
    rounding.values(torch.float32).zero_()
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_shapes_that_do_not_fit_are_refused() -> None:
    codes, scales = torch.zeros(2, 6, dtype=torch.int8), torch.ones(2, 2)
    with pytest.raises(SettingError, match=r"weight \(2, 4\), codes \(2, 6\)"):
        LearnedRounding(torch.ones(2, 4), codes, scales, bits=4)
    with pytest.raises(SettingError, match=r"scales \(2, 4\) do not fit"):
        LearnedRounding(torch.ones(2, 6), codes, torch.ones(2, 4), bits=4)
    with pytest.raises(SolverError, match="6 NaN"):
        LearnedRounding(
            torch.ones(2, 6).index_fill(0, torch.tensor(0), torch.nan), codes, scales, bits=4
        )
