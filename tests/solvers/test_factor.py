from __future__ import annotations

import pytest
import torch

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.factor import factorize
from birdbone.solvers.gram import Gram


def test_upper_is_the_cholesky_factor_of_the_damped_inverse(make_layer) -> None:
    gram = make_layer().gram
    factor = factorize(gram, damping=0.1)
    damped = gram.matrix + 0.1 * gram.diagonal.mean() * torch.eye(8, dtype=torch.float64)
    expected = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    torch.testing.assert_close(factor.upper, expected)
    assert (factor.damping, factor.escalations, factor.order) == (0.1, 0, None)


def test_the_gram_is_not_changed(make_layer) -> None:
    gram = make_layer().gram
    gram.matrix[3] = gram.matrix[:, 3] = 0.0
    before = gram.matrix.clone()
    factorize(gram, descending=True)
    assert torch.equal(gram.matrix, before)


def test_dead_features_are_decoupled_and_left_out_of_the_mean(make_layer) -> None:
    matrix = make_layer().gram.matrix
    matrix[3] = matrix[:, 3] = 0.0
    live = [0, 1, 2, 4, 5, 6, 7]
    factor = factorize(Gram(matrix, 64), damping=0.01)
    alone = factorize(Gram(matrix[live][:, live], 64), damping=0.01)
    assert factor.dead.nonzero().flatten().tolist() == [3]
    torch.testing.assert_close(factor.upper[live][:, live], alone.upper)
    assert factor.upper[3].count_nonzero() == 1


def test_all_features_dead_gives_the_identity() -> None:
    factor = factorize(Gram(torch.zeros(4, 4), 1))
    assert torch.equal(factor.upper, torch.eye(4))


def test_descending_order_factors_the_permuted_hessian(make_layer) -> None:
    gram = make_layer().gram
    factor = factorize(gram, descending=True)
    order = factor.order
    assert order is not None
    assert (gram.diagonal[order].diff() <= 0).all()
    permuted = factorize(Gram(gram.matrix[order][:, order], 64))
    torch.testing.assert_close(factor.upper, permuted.upper)


def test_near_singular_hessian_raises_the_damping_and_says_so() -> None:
    # Eigenvalues 2.1 and -0.1 about a mean diagonal of 1: 0.02 does not lift them, 0.2 does.
    gram = Gram(torch.tensor([[1.0, 1.1], [1.1, 1.0]], dtype=torch.float64), 2)
    factor = factorize(gram, damping=0.02)
    assert factor.escalations == 1
    assert factor.damping == pytest.approx(0.2)


def test_indefinite_hessian_is_refused_with_what_was_tried() -> None:
    gram = Gram(torch.tensor([[1.0, 99.0], [99.0, 1.0]]), 2)
    with pytest.raises(
        SolverError, match=r"not positive definite at damping 0.01 nor, .* at 10; calibrate on more"
    ):
        factorize(gram, damping=0.01)


def test_non_finite_hessian_is_refused() -> None:
    with pytest.raises(SolverError, match=r"Gram matrix .* 1 NaN and 0 infinite"):
        factorize(Gram(torch.tensor([[1.0, 0.0], [0.0, float("nan")]]), 2))


@pytest.mark.parametrize("damping", [-0.1, float("nan"), float("inf")])
def test_damping_out_of_range_is_refused(make_layer, damping: float) -> None:
    with pytest.raises(SettingError, match=r"damping .* is out of range"):
        factorize(make_layer().gram, damping=damping)
