from __future__ import annotations

import torch

from birdbone.solvers.gram import Gram
from birdbone.solvers.magnitude import prune_magnitude
from birdbone.solvers.wanda import prune_wanda

WEIGHT = torch.tensor([[1.0, -2.0, 3.0, -4.0], [50.0, 60.0, 70.0, 80.0]])
GRAM = Gram(torch.diag(torch.tensor([100.0, 1.0, 1.0, 1.0])), 4)


def test_wanda_compares_within_a_row_and_heeds_the_inputs() -> None:
    pruned = prune_wanda(WEIGHT, GRAM, sparsity=0.5)
    assert pruned.weight.tolist() == [[1.0, 0.0, 0.0, -4.0], [50.0, 0.0, 0.0, 80.0]]


def test_magnitude_compares_the_layer_and_heeds_nothing() -> None:
    pruned = prune_magnitude(WEIGHT, GRAM, sparsity=0.5)
    assert pruned.weight.tolist() == [[0.0, 0.0, 0.0, 0.0], [50.0, 60.0, 70.0, 80.0]]
