"""Wanda removes by weight times input norm, row by row, and changes no other weight."""

from __future__ import annotations

import pytest
import torch

from birdbone.solvers.gram import Gram
from birdbone.solvers.masks import Pattern
from birdbone.solvers.wanda import prune_wanda

WEIGHT = torch.tensor([[1.0, -2.0, 3.0, -4.0], [50.0, 60.0, 70.0, 80.0]])
GRAM = Gram(torch.diag(torch.tensor([100.0, 1.0, 1.0, 1.0])), 4)


def test_wanda_compares_within_a_row_and_heeds_the_inputs() -> None:
    pruned = prune_wanda(WEIGHT, GRAM, sparsity=0.5)
    assert pruned.weight.tolist() == [[1.0, 0.0, 0.0, -4.0], [50.0, 0.0, 0.0, 80.0]]


def test_n_of_m_heeds_the_inputs_too() -> None:
    pruned = prune_wanda(WEIGHT, GRAM, pattern=Pattern((1, 2)))
    assert pruned.weight.tolist() == [[1.0, 0.0, 0.0, -4.0], [50.0, 0.0, 0.0, 80.0]]


def test_stacked_layers_report_their_own_errors() -> None:
    stacked = prune_wanda(WEIGHT, GRAM, sparsity=0.5, heights=(1, 1))
    alone = [prune_wanda(row, GRAM, sparsity=0.5).relative_error for row in WEIGHT.split(1)]
    assert stacked.relative_errors == pytest.approx(alone)
