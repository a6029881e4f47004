"""Magnitude pruning removes exactly the smallest weights and changes no other."""

from __future__ import annotations

import pytest
import torch

from birdbone.solvers.gram import Gram
from birdbone.solvers.magnitude import prune_magnitude
from birdbone.solvers.masks import Pattern

WEIGHT = torch.tensor([[1.0, -2.0, 3.0, -4.0], [50.0, 60.0, 70.0, 80.0]])
GRAM = Gram(torch.diag(torch.tensor([100.0, 1.0, 1.0, 1.0])), 4)


def test_weights_are_compared_across_the_layer() -> None:
    pruned = prune_magnitude(WEIGHT, GRAM, sparsity=0.5)
    assert pruned.weight.tolist() == [[0.0, 0.0, 0.0, 0.0], [50.0, 60.0, 70.0, 80.0]]


def test_stacked_layers_are_compared_each_by_itself() -> None:
    pruned = prune_magnitude(WEIGHT, GRAM, sparsity=0.5, heights=(1, 1))
    assert pruned.weight.tolist() == [[0.0, 0.0, 3.0, -4.0], [0.0, 0.0, 70.0, 80.0]]


def test_n_of_m_keeps_the_largest_of_each_group() -> None:
    pruned = prune_magnitude(WEIGHT, GRAM, pattern=Pattern((1, 2)))
    assert pruned.weight.tolist() == [[0.0, -2.0, 0.0, -4.0], [0.0, 60.0, 0.0, 80.0]]


def test_the_error_is_measured_on_the_inputs() -> None:
    pruned = prune_magnitude(WEIGHT[:1], GRAM, sparsity=0.25)
    assert pruned.relative_error == pytest.approx(100 / (100 + 4 + 9 + 16))
