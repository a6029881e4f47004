from __future__ import annotations

import pytest
import torch

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.factor import factorize
from birdbone.solvers.gram import Gram
from birdbone.solvers.saliency import magnitude_saliency, obs_saliency, wanda_saliency

WEIGHT = torch.tensor([[1.0, -2.0], [-3.0, 0.5]])


def test_magnitude_is_the_absolute_value() -> None:
    assert magnitude_saliency(WEIGHT).tolist() == [[1.0, 2.0], [3.0, 0.5]]


def test_wanda_weighs_by_the_norm_of_the_input() -> None:
    gram = Gram(torch.diag(torch.tensor([4.0, 9.0])), 2)
    assert wanda_saliency(WEIGHT, gram).tolist() == [[2.0, 6.0], [6.0, 1.5]]


def test_obs_is_the_least_error_of_removing_one_weight(make_layer) -> None:
    """Least squares over the later columns, earlier ones fixed, must find the same error."""
    layer = make_layer()
    scores = obs_saliency(layer.weight, factorize(layer.gram, damping=0.0))
    for column in (0, 3, 7):
        target = layer.inputs[:, column : column + 1] * layer.weight[0, column]
        later = layer.inputs[:, column + 1 :]
        left = target - later @ torch.linalg.pinv(later) @ target if column < 7 else target
        assert float(scores[0, column]) == pytest.approx(float(left.square().sum()))


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(SettingError, match=r"weight \(2, 2\) and Gram matrix \(3, 3\) do not fit"):
        wanda_saliency(WEIGHT, Gram(torch.eye(3), 3))
    with pytest.raises(SettingError, match=r"weight \(2, 2\) and factor \(3, 3\) do not fit"):
        obs_saliency(WEIGHT, factorize(Gram(torch.eye(3), 3)))
    with pytest.raises(SettingError, match=r"weight has shape \(2,\)"):
        magnitude_saliency(WEIGHT[0])


def test_a_permuted_factor_is_refused() -> None:
    with pytest.raises(SettingError, match="descending order"):
        obs_saliency(WEIGHT, factorize(Gram(torch.eye(2), 2), descending=True))


def test_weights_must_be_finite() -> None:
    with pytest.raises(SolverError, match=r"weight of shape \(2, 2\) holds 4 NaN and 0 infinite"):
        magnitude_saliency(WEIGHT * float("nan"))
