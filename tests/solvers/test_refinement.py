from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from birdbone.errors import SettingError
from birdbone.solvers.gram import Gram
from birdbone.solvers.grid import Grid
from birdbone.solvers.refinement import damped_hessian, descend_codes, refine, refit_scales
from birdbone.solvers.results import QuantizedWeight
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest

GRIDS = [Grid(3, 4), Grid(2, 8, signed=True), Grid(4, 2, symmetric=False), Grid(3, None)]


def loss(weight: Tensor, quantized: QuantizedWeight, gram: Gram, damping: float = 0.01) -> Tensor:
    """Damped squared output error of every row, in float64."""
    error = quantized.dequantize(torch.float64) - weight.double()
    return ((error @ damped_hessian(gram, damping).double()) * error).sum(1)


def rounded(layer, grid, mask=None, scale_dtype=torch.float64) -> QuantizedWeight:
    return quantize_round_to_nearest(
        layer.weight, layer.gram, grid=grid, mask=mask, scale_dtype=scale_dtype
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_refit_is_the_least_squares_answer(make_layer, grid) -> None:
    """Each row's output as a combination of its groups' outputs, solved outright."""
    layer = make_layer()
    before = rounded(layer, grid)
    after = refit_scales(layer.weight, before, layer.gram, damping=0.0)
    rows, groups = before.scales.shape
    unit = replace(before, scales=torch.ones_like(before.scales)).dequantize(torch.float64)
    for row in range(rows):
        parts = torch.block_diag(*unit[row].view(groups, 1, -1))  # [groups, columns]
        outputs, wanted = layer.inputs @ parts.T, layer.inputs @ layer.weight[row]
        best = torch.linalg.lstsq(outputs, wanted.unsqueeze(1)).solution.flatten()
        expected = wanted - outputs @ best
        found = layer.inputs @ (layer.weight[row] - after.dequantize(torch.float64)[row])
        # The ridge of 1e-5 keeps the step a little short.
        assert float(found.square().sum()) <= float(expected.square().sum()) * (1 + 1e-4)
    assert torch.equal(after.codes, before.codes)
    assert (
        loss(layer.weight, after, layer.gram).sum() < loss(layer.weight, before, layer.gram).sum()
    )


def test_scales_that_rounding_would_make_worse_are_kept(make_layer) -> None:
    """Rounding each scale of the optimum is not optimal; what is better than that must stay."""
    layer = make_layer(8, 16)
    rounded_optimum = refit_scales(
        layer.weight, rounded(layer, Grid(3, 2), scale_dtype=torch.bfloat16), layer.gram
    )
    best, scales = rounded_optimum, rounded_optimum.scales
    for group, up in product(range(scales.shape[1]), (1 + 2**-7, 1 - 2**-7)):
        moved = scales.clone()
        moved[:, group] *= up
        other = replace(best, scales=moved)
        lower = loss(layer.weight, other, layer.gram) < loss(layer.weight, best, layer.gram)
        scales = torch.where(lower.unsqueeze(1), moved, scales)
        best = replace(best, scales=scales)
    was = loss(layer.weight, best, layer.gram)
    assert (was < loss(layer.weight, rounded_optimum, layer.gram)).any()
    again = refit_scales(layer.weight, best, layer.gram)
    assert (loss(layer.weight, again, layer.gram) <= was * (1 + 1e-9)).all()


def test_groups_of_nothing_but_zeros_keep_their_scale(make_layer) -> None:
    layer = make_layer()
    layer.weight[2, :4] = 0.0
    before = rounded(layer, Grid(3, 4))
    after = refit_scales(layer.weight, before, layer.gram)
    assert after.scales[2, 0] == before.scales[2, 0] == 1.0
    assert (after.scales[2, 1] != before.scales[2, 1]).all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
def test_descent_ends_where_no_single_code_can_be_bettered(make_layer, grid, masked) -> None:
    layer = make_layer()
    mask = layer.weight.abs() > 0.5 if masked else None
    before = rounded(layer, grid, mask)
    after = descend_codes(layer.weight, before, layer.gram, mask=mask, sweeps=50)
    reached = loss(layer.weight, after, layer.gram)
    assert (reached <= loss(layer.weight, before, layer.gram) * (1 + 1e-12)).all()
    assert reached.sum() < loss(layer.weight, before, layer.gram).sum()
    for row, column in product(range(8), range(8)):
        if mask is not None and not mask[row, column]:
            assert after.codes[row, column] == before.codes[row, column]
            continue
        for code in range(grid.smallest, grid.largest + 1):
            codes = after.codes.clone()
            codes[row, column] = code
            other = loss(layer.weight, replace(after, codes=codes), layer.gram)
            assert other[row] >= reached[row] * (1 - 1e-12)


def test_one_sweep_is_coordinate_descent_column_by_column(make_layer) -> None:
    layer, grid = make_layer(5, 300, tokens=400), Grid(3, 20)
    before = rounded(layer, grid)
    after = descend_codes(layer.weight, before, layer.gram)
    hessian = damped_hessian(layer.gram, 0.01)
    codes, step = before.codes.double(), before.scales.repeat_interleave(20, 1)
    for column in range(300):
        slope = ((codes * step - layer.weight) @ hessian)[:, column] / hessian[column, column]
        codes[:, column] = (codes[:, column] - slope / step[:, column]).round().clamp(-4, 3)
    assert torch.equal(after.codes.double(), codes)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5),
    groups=st.integers(1, 3),
    size=st.integers(1, 6),
    bits=st.integers(2, 8),
    kind=st.sampled_from(["symmetric", "signed", "asymmetric"]),
    scale_dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    dead=st.booleans(),
    masked=st.booleans(),
    refit=st.booleans(),
    sweeps=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_it_is_never_worse_than_what_it_was_given(
    make_layer,
    rows,
    groups,
    size,
    bits,
    kind,
    scale_dtype,
    dtype,
    dead,
    masked,
    refit,
    sweeps,
    seed,
) -> None:
    layer = make_layer(rows, groups * size, seed=seed, dtype=dtype)
    if dead:
        layer.inputs[:, 0] = 0.0
    gram = Gram(layer.inputs.T @ layer.inputs, 64)
    mask = layer.weight.abs() > 0.5 if masked else None
    grid = Grid(bits, size, kind != "asymmetric", signed=kind == "signed")
    before = rounded(layer, grid, mask, scale_dtype)
    kept = [before.codes.clone(), before.scales.clone()]
    after = refine(layer.weight, before, gram, mask=mask, refit=refit, sweeps=sweeps)
    was = loss(layer.weight, before, gram)
    # float32 tells no two losses apart that lie closer than this
    slack = 1e-5 * was + 1e-9 * layer.weight.double().square().sum(1) * gram.diagonal.mean()
    assert (loss(layer.weight, after, gram) <= was + slack).all()
    assert after.scales.dtype == scale_dtype
    assert kind == "signed" or (after.scales > 0).all()
    assert torch.equal(before.codes, kept[0])
    assert torch.equal(before.scales, kept[1])
    if mask is not None:
        assert (after.dequantize()[~mask] == 0).all()


def test_scales_of_super_blocks_stay_and_codes_improve(make_layer) -> None:
    layer = make_layer(4, 256, tokens=300)
    before = rounded(layer, Grid.named("q4_k"))
    after = refine(layer.weight, before, layer.gram, refit=True, sweeps=2)
    assert torch.equal(after.scales, before.scales)
    assert loss(layer.weight, after, layer.gram).sum() < (
        0.9 * loss(layer.weight, before, layer.gram).sum()
    )


def test_a_row_heeds_no_other_row(make_layer) -> None:
    layer = make_layer(8, 8)
    whole = refine(layer.weight, rounded(layer, Grid(3, 4)), layer.gram, sweeps=9)
    for row in range(8):
        one = replace(layer, weight=layer.weight[row : row + 1])
        alone = refine(one.weight, rounded(one, Grid(3, 4)), layer.gram, sweeps=9)
        torch.testing.assert_close(alone.scales[0], whole.scales[row], rtol=1e-12, atol=0)
        assert torch.equal(alone.codes[0], whole.codes[row])


def test_unfit_arguments_are_refused(make_layer) -> None:
    layer = make_layer()
    quantized = rounded(layer, Grid(4, 8))
    with pytest.raises(SettingError, match=r"sweeps -1 is out of range; give 0 or more"):
        refine(layer.weight, quantized, layer.gram, sweeps=-1)
    with pytest.raises(SettingError, match=r"weight \(4, 8\) and codes \(8, 8\) do not fit"):
        refine(layer.weight[:4], quantized, layer.gram)
