"""Round to nearest, against every code there is."""

from __future__ import annotations

import pytest
import torch

from birdbone.solvers.gram import Gram
from birdbone.solvers.grid import Grid
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest


@pytest.mark.parametrize("grid", [Grid(3, 8), Grid(3, 8, symmetric=False), Grid(2, None)])
def test_no_other_code_is_nearer(make_layer, grid: Grid) -> None:
    layer = make_layer(5, 16)
    found = quantize_round_to_nearest(layer.weight, grid=grid, scale_dtype=torch.float64)
    error = (found.dequantize(torch.float64) - layer.weight).abs()
    scales = found.scales.repeat_interleave(16 // found.scales.shape[1], dim=1)
    points = 0 if found.zero_points is None else found.zero_points.repeat_interleave(8, dim=1)
    for code in range(grid.smallest, grid.largest + 1):
        assert (error <= ((code - points) * scales - layer.weight).abs() + 1e-12).all()


def test_without_inputs_nothing_is_measured(make_layer) -> None:
    layer = make_layer(4, 8)
    assert quantize_round_to_nearest(layer.weight, grid=Grid(4, 8)).relative_error is None


def test_a_search_spares_the_columns_with_large_inputs(make_layer) -> None:
    """The weight with the large input is met better than where all columns count alike."""
    layer = make_layer(64, 16)
    diagonal = torch.ones(16, dtype=torch.float64)
    diagonal[3] = 1e4
    gram, grid = Gram(torch.diag(diagonal), 16), Grid(3, 16)
    alike, heeded = (
        quantize_round_to_nearest(layer.weight, each, grid=grid, scales="searched")
        for each in (None, gram)
    )
    missed = [(each.dequantize() - layer.weight)[:, 3].square().sum() for each in (alike, heeded)]
    assert missed[1] < 0.5 * missed[0]


def test_features_silent_in_calibration_are_searched_for_alike(make_layer) -> None:
    layer = make_layer(8, 16)
    diagonal = torch.ones(16, dtype=torch.float64)
    diagonal[8:] = 0.0
    alike, found = (
        quantize_round_to_nearest(layer.weight, each, grid=Grid(3, 8), scales="searched")
        for each in (None, Gram(torch.diag(diagonal), 4))
    )
    torch.testing.assert_close(found.scales[:, 1], alike.scales[:, 1])
