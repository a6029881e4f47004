"""What solvers return: dequantised values and measured errors, by hand-made examples."""

from __future__ import annotations

import pytest
import torch

from birdbone.solvers.gram import Gram
from birdbone.solvers.grid import Grid, Scales
from birdbone.solvers.results import PrunedWeight, QuantizedWeight

CODES = torch.tensor([[1, -2, 3, 4]], dtype=torch.int8)
SCALES = torch.tensor([[0.5, 2.0]])


def test_symmetric_codes_are_multiples_of_their_scale() -> None:
    found = QuantizedWeight(CODES, SCALES, None, Grid(4, 2)).dequantize()
    assert found.tolist() == [[0.5, -1.0, 6.0, 8.0]]
    assert found.dtype == torch.float32


def test_zero_points_are_subtracted_before_scaling() -> None:
    points = torch.tensor([[1, -1]], dtype=torch.int8)
    found = QuantizedWeight(CODES, SCALES, points, Grid(4, 2, symmetric=False)).dequantize()
    assert found.tolist() == [[0.0, -1.5, 8.0, 10.0]]


def test_minimums_are_subtracted_after_scaling() -> None:
    minimums = torch.tensor([[1.0, 0.25]])
    scales = Scales(SCALES, None, Grid(4, 2, symmetric=False), minimums)
    found = QuantizedWeight.assemble(CODES, scales)
    assert found.dequantize().tolist() == [[-0.5, -2.0, 5.75, 7.75]]
    assert found.relative_error is None


def test_the_error_is_that_of_the_served_weight() -> None:
    weight = torch.tensor([[0.5, -1.0, 6.0, 9.0]])
    gram = Gram(torch.diag(torch.tensor([1.0, 1.0, 1.0, 4.0])), 1)
    found = QuantizedWeight(CODES, SCALES, None, Grid(4, 2)).measured(weight, gram)
    assert found.relative_error == pytest.approx(4 / (0.25 + 1 + 36 + 4 * 81))


def test_the_worst_of_stacked_layers_speaks_for_all() -> None:
    pruned = PrunedWeight(torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.bool), (0.1, 0.4))
    assert pruned.relative_error == 0.4
