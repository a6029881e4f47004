from __future__ import annotations

import pytest
import torch

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.gram import Gram
from birdbone.solvers.low_rank import correct_low_rank
from birdbone.solvers.magnitude import prune_magnitude


@pytest.fixture
def thinned(make_layer):
    """A layer and its weight with half of it gone."""
    layer = make_layer(7, 8)
    return layer, prune_magnitude(layer.weight, layer.gram, sparsity=0.5).weight


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_it_is_the_best_of_its_rank_in_the_outputs(thinned, rank) -> None:
    layer, replacement = thinned
    found = correct_low_rank(layer.weight, replacement, layer.gram, rank=rank, damping=0.0)
    left_over = layer.inputs @ (layer.weight - replacement).T
    # Eckart and Young: what no matrix of this rank can take away of the outputs' error.
    least = torch.linalg.svdvals(left_over)[rank:].square().sum()
    energy = (layer.inputs @ layer.weight.T).square().sum()
    assert found.relative_error == pytest.approx(float(least / energy), rel=1e-6, abs=1e-12)
    assert found.left.shape == (7, rank)
    assert found.right.shape == (rank, 8)


def test_a_full_rank_gives_the_weight_back(thinned) -> None:
    layer, replacement = thinned
    found = correct_low_rank(layer.weight, replacement, layer.gram, rank=7, damping=0.0)
    torch.testing.assert_close(replacement + found.left @ found.right, layer.weight)


def test_more_rank_leaves_less(thinned) -> None:
    layer, replacement = thinned
    errors = [
        correct_low_rank(layer.weight, replacement, layer.gram, rank=rank).relative_error
        for rank in (1, 2, 4)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.5 * errors[0]


def test_features_never_seen_do_not_upset_it(thinned) -> None:
    layer, replacement = thinned
    layer.inputs[:, 2] = 0.0
    gram = Gram(layer.inputs.T @ layer.inputs, 64)
    found = correct_low_rank(layer.weight, replacement, gram, rank=2)
    assert torch.isfinite(found.right).all()
    assert found.relative_error < 1


@pytest.mark.parametrize("rank", [0, 8])
def test_ranks_out_of_range_are_refused(thinned, rank) -> None:
    layer, replacement = thinned
    with pytest.raises(SettingError, match=rf"rank {rank} is out of range; give 1 to 7"):
        correct_low_rank(layer.weight, replacement, layer.gram, rank=rank)


def test_what_does_not_fit_or_is_not_finite_is_refused(thinned) -> None:
    layer, replacement = thinned
    with pytest.raises(SettingError, match=r"replacement \(7, 4\) do not fit"):
        correct_low_rank(layer.weight, replacement[:, :4], layer.gram, rank=1)
    with pytest.raises(SolverError, match=r"replacement weight .* NaN"):
        correct_low_rank(layer.weight, replacement * float("nan"), layer.gram, rank=1)
    indefinite = Gram(torch.eye(8) - 2, 64)
    with pytest.raises(SolverError, match=r"not positive definite at damping 0.01"):
        correct_low_rank(layer.weight.float(), replacement.float(), indefinite, rank=1)
