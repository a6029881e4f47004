from __future__ import annotations

import pytest
import torch

from birdbone.errors import SolverError
from birdbone.solvers.gram import Gram
from birdbone.solvers.output_error import relative_output_error


@pytest.mark.parametrize("cols", [8, 300])  # within one strip, and over its edge
def test_it_is_the_squared_error_of_the_outputs(make_layer, cols: int) -> None:
    layer = make_layer(6, cols, tokens=40)
    moved = layer.weight * 0.9 + 0.01
    error = (layer.inputs @ (layer.weight - moved).T).square().sum()
    expected = error / (layer.inputs @ layer.weight.T).square().sum()
    assert relative_output_error(layer.weight, moved, layer.gram) == pytest.approx(float(expected))


def test_nothing_moved_is_no_error_even_of_nothing() -> None:
    assert relative_output_error(torch.zeros(2, 2), torch.zeros(2, 2), Gram(torch.eye(2), 2)) == 0.0


def test_an_error_beside_an_output_of_zero_is_infinite() -> None:
    error = relative_output_error(torch.zeros(2, 2), torch.ones(2, 2), Gram(torch.eye(2), 2))
    assert error == float("inf")


def test_what_is_not_finite_is_refused() -> None:
    ones = torch.ones(2, 2)
    with pytest.raises(SolverError, match=r"replacement weight .* 0 NaN and 4 infinite"):
        relative_output_error(ones, ones / 0, Gram(torch.eye(2), 2))
    with pytest.raises(SolverError, match=r"Gram matrix .* 0 NaN and 4 infinite"):
        relative_output_error(ones, ones, Gram(ones / 0, 2))
