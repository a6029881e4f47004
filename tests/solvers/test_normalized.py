from __future__ import annotations

import pytest
import torch

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.gram import Gram
from birdbone.solvers.normalized import decompose, normalize, resolve


def test_unit_diagonal_and_the_same_error_in_its_units(make_layer) -> None:
    layer = make_layer(3, 6)
    before = layer.gram.matrix.clone()
    found = normalize(layer.gram, damping=0.0)
    torch.testing.assert_close(found.matrix.diagonal(), torch.ones(6, dtype=torch.float64))
    scaled = layer.weight * found.scale
    energy = ((scaled @ found.matrix) * scaled).sum()
    torch.testing.assert_close(energy, (layer.inputs @ layer.weight.T).square().sum())
    assert torch.equal(layer.gram.matrix, before)


def test_a_dead_feature_is_coupled_to_nothing_and_weighs_least(make_layer) -> None:
    layer = make_layer(3, 6)
    layer.inputs[:, 2] = 0.0
    found = normalize(Gram(layer.inputs.T @ layer.inputs, 64), damping=0.01)
    assert found.matrix[2].tolist() == pytest.approx([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    assert found.scale.argmin() == 2
    assert found.scale[2] > 0


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_all_features_dead_is_the_identity(damping) -> None:
    found = normalize(Gram(torch.zeros(3, 3), 5), damping=damping)
    assert torch.equal(found.matrix, torch.eye(3))
    assert torch.equal(found.scale, torch.ones(3))


def test_resolvent_is_the_scaled_inverse(make_layer) -> None:
    found = resolve(make_layer(3, 6).gram, damping=0.1, penalty=0.5)
    eye = torch.eye(6, dtype=torch.float64)
    expected = 0.5 * torch.linalg.inv(found.normalized.matrix + 0.5 * eye)
    root = expected.diagonal().rsqrt()
    torch.testing.assert_close(found.inverse, expected * root / root.unsqueeze(1))
    torch.testing.assert_close(found.scale, found.normalized.scale * root)
    assert (found.normalized.damping, found.escalations) == (0.1, 0)


def test_a_weight_in_the_resolvents_units_is_what_the_optimal_brain_surgeon_charges(
    make_layer,
) -> None:
    layer = make_layer(1, 6)
    found = resolve(layer.gram, damping=0.1, penalty=0.5)
    scale = found.normalized.scale
    hessian = (found.normalized.matrix + 0.5 * torch.eye(6, dtype=torch.float64)) * scale
    hessian *= scale.unsqueeze(1)
    weight = layer.weight[0]
    for gone in range(6):  # least squares on the others, given that this one is zero
        rest = [place for place in range(6) if place != gone]
        moved = torch.linalg.solve(hessian[rest][:, rest], hessian[rest, gone] * weight[gone])
        change = torch.zeros(6, dtype=torch.float64)
        change[rest], change[gone] = moved, -weight[gone]
        charged = change @ hessian @ change
        torch.testing.assert_close(charged, 0.5 * (weight * found.scale)[gone].square())


def test_spectrum_puts_the_matrix_together_again(make_layer) -> None:
    found = decompose(make_layer(3, 6, tokens=4).gram, damping=0.0)  # rank 4 of 6
    assert float(found.values.min()) >= 0.0
    rebuilt = found.vectors @ found.values.diag() @ found.vectors.T
    torch.testing.assert_close(rebuilt, found.normalized.matrix)


def test_what_is_no_gram_raises_the_damping_then_is_refused() -> None:
    # Unit diagonal, off-diagonal 3: eigenvalue -2, and 0.7 does not lift it, damping 3 does.
    slightly = Gram(torch.tensor([[1.0, 3.0], [3.0, 1.0]]), 2)
    found = resolve(slightly, damping=0.3)
    assert found.escalations == 1
    assert found.normalized.damping == pytest.approx(3.0)
    with pytest.raises(SolverError, match=r"not positive definite at damping 0.01 nor, .* at 10;"):
        resolve(Gram(torch.tensor([[1.0, 99.0], [99.0, 1.0]]), 2), damping=0.01)


def test_bad_settings_and_values_are_refused(make_layer) -> None:
    gram = make_layer().gram
    with pytest.raises(SettingError, match=r"damping -1 is out of range"):
        normalize(gram, damping=-1)
    with pytest.raises(SettingError, match=r"penalty 0 is out of range"):
        resolve(gram, penalty=0)
    with pytest.raises(SolverError, match=r"Gram matrix .* 1 NaN"):
        decompose(Gram(torch.tensor([[1.0, 0.0], [0.0, float("nan")]]), 2))
