from __future__ import annotations

import pytest
import torch

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.factor import factorize
from birdbone.solvers.gram import Gram
from birdbone.solvers.grid import Grid
from birdbone.solvers.least_squares import refit
from birdbone.solvers.masks import Pattern
from birdbone.solvers.table import PRUNERS, QUANTIZERS
from birdbone.solvers.target import compensated_weight, target_shift, target_weight


@pytest.fixture
def drifted(make_layer):
    """A weight, the inputs it was made for, what it is fed now, and the Gram of both."""
    layer = make_layer(5, 8, tokens=160)
    noise = torch.randn(160, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    fed = layer.inputs + 0.3 * noise
    return layer.weight, layer.inputs, fed, Gram(fed.T @ fed, 160, layer.inputs.T @ fed)


@pytest.mark.parametrize("descending", [False, True])
def test_the_full_fraction_is_least_squares_on_what_was_meant(drifted, descending) -> None:
    weight, meant, fed, gram = drifted
    factor = factorize(gram, damping=0.0, descending=descending)
    found = target_weight(weight, gram, factor, matching=1.0)
    expected = torch.linalg.lstsq(fed, meant @ weight.T).solution.T
    torch.testing.assert_close(found, expected)


def test_a_fraction_lies_on_the_way_there(drifted) -> None:
    weight, _, _, gram = drifted
    factor = factorize(gram)
    whole = target_weight(weight, gram, factor, matching=1.0)
    half = target_weight(weight, gram, factor, matching=0.5)
    torch.testing.assert_close(half, (weight + whole) / 2)


def test_fewer_tokens_than_twenty_a_feature_are_trusted_in_proportion(drifted) -> None:
    weight, _, _, gram = drifted
    factor = factorize(gram)
    few = Gram(gram.matrix, 40, gram.cross)
    found = target_weight(weight, few, factor, matching=1.0)
    quarter = target_weight(weight, gram, factor, matching=0.25)
    torch.testing.assert_close(found, quarter)


def test_no_matching_or_no_cross_sum_is_the_weight_itself(drifted) -> None:
    weight, _, _, gram = drifted
    factor = factorize(gram)
    assert torch.equal(target_weight(weight, gram, factor, matching=0.0), weight)
    alone = Gram(gram.matrix, 160)
    assert torch.equal(target_weight(weight, alone, factor, matching=1.0), weight)


def test_weights_on_dead_features_are_left(drifted) -> None:
    weight, meant, fed, _ = drifted
    fed[:, 2] = 0.0
    gram = Gram(fed.T @ fed, 160, meant.T @ fed)
    found = target_weight(weight, gram, factorize(gram), matching=1.0)
    assert torch.equal(found[:, 2], weight[:, 2])


def test_what_does_not_fit_is_refused(drifted) -> None:
    weight, _, _, gram = drifted
    factor = factorize(gram)
    with pytest.raises(SettingError, match=r"matching 1.5 is out of range; give a fraction"):
        target_weight(weight, gram, factor, matching=1.5)
    with pytest.raises(SettingError, match=r"cross sum \(2, 2\) does not fit Gram matrix \(8, 8\)"):
        Gram(gram.matrix, 160, torch.eye(2))
    broken = Gram(gram.matrix, 160, gram.cross * float("inf"))
    with pytest.raises(SolverError, match=r"cross sum of shape \(8, 8\) holds"):
        target_weight(weight, broken, factor, matching=1.0)


def test_what_the_output_lacks_is_added_to_it(drifted) -> None:
    weight, meant, fed, gram = drifted
    lacking = meant @ weight.T - fed @ weight.T
    factor = factorize(gram)
    found = compensated_weight(weight, lacking.T @ fed, gram, factor, matching=0.5)
    torch.testing.assert_close(found, target_weight(weight, gram, factor, matching=0.5))


@pytest.mark.parametrize("rows", [3, 20])
@pytest.mark.parametrize("descending", [False, True])
def test_weights_taller_and_wider_than_their_inputs_come_to_the_same(
    make_layer, rows, descending
) -> None:
    layer = make_layer(rows, 12, tokens=400)
    fed = layer.inputs + 0.1 * layer.inputs.roll(1, dims=1)
    gram = Gram(fed.T @ fed, 400, layer.inputs.T @ fed)
    factor = factorize(gram, damping=0.0, descending=descending)
    found = target_weight(layer.weight, gram, factor, matching=1.0)
    expected = layer.weight @ gram.cross @ torch.linalg.inv(gram.matrix)
    torch.testing.assert_close(found, expected)


def test_strips_of_a_wide_triangle_leave_nothing_out(make_layer) -> None:
    layer = make_layer(3, 300, tokens=7000)
    fed = layer.inputs + 0.1 * layer.inputs.roll(1, dims=1)
    gram = Gram(fed.T @ fed, 7000, layer.inputs.T @ fed)
    found = target_weight(layer.weight, gram, factorize(gram, damping=0.0), matching=1.0)
    expected = layer.weight @ gram.cross @ torch.linalg.inv(gram.matrix)
    torch.testing.assert_close(found, expected)


def test_the_shift_is_what_the_target_weight_solves(drifted) -> None:
    weight, _, _, gram = drifted
    whole = target_weight(weight, gram, factorize(gram, damping=0.0), matching=0.5)
    shift = target_shift(weight, gram, matching=0.5)
    torch.testing.assert_close(weight @ gram.matrix + shift, whole @ gram.matrix)
    assert target_shift(weight, gram, matching=0.0) is None
    assert target_shift(weight, Gram(gram.matrix, 160), matching=0.5) is None


def test_least_squares_with_a_shift_is_that_of_the_target_weight(drifted) -> None:
    weight, _, _, gram = drifted
    whole = target_weight(weight, gram, factorize(gram, damping=0.0), matching=0.5)
    mask = torch.rand(5, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    shift = target_shift(weight, gram, matching=0.5)
    found = refit(weight, mask, gram, shift=shift, steps=8, damping=0.0)
    expected = refit(whole, mask, gram, steps=8, damping=0.0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["admm", "alps", "sparsegpt"])
@pytest.mark.parametrize("asked", [{"sparsity": 0.1}, {"pattern": Pattern((7, 8))}])
def test_a_pruner_that_matches_comes_nearer_to_what_was_meant(drifted, name, asked) -> None:
    weight, meant, fed, gram = drifted
    outputs = meant @ weight.T
    alone, matched = [
        PRUNERS[name](weight, gram, matching=share, **asked).weight for share in (0.0, 1.0)
    ]
    before, after = ((outputs - fed @ each.T).square().sum() for each in (alone, matched))
    assert after < 0.95 * before


@pytest.mark.parametrize("name", ["magnitude", "wanda"])
def test_a_pruner_that_solves_for_nothing_does_not_match(drifted, name) -> None:
    weight, _, _, gram = drifted
    alone, asked = [
        PRUNERS[name](weight, gram, sparsity=0.5, matching=share).weight for share in (0.0, 1.0)
    ]
    assert torch.equal(alone, asked)


def test_gptq_that_matches_comes_nearer_and_is_judged_by_the_weight_as_given(drifted) -> None:
    weight, meant, fed, gram = drifted
    outputs = meant @ weight.T
    grid = Grid(8, None)
    alone, matched = [
        QUANTIZERS["gptq"](weight, gram, grid=grid, matching=share) for share in (0.0, 1.0)
    ]
    before, after = [
        (outputs - fed @ each.dequantize(torch.float64).T).square().sum()
        for each in (alone, matched)
    ]
    assert after < 0.9 * before
    assert matched.relative_error > alone.relative_error


def test_admm_folds_the_shift_in_as_if_the_target_weight_were_given(drifted) -> None:
    weight, _, _, gram = drifted
    whole = target_weight(weight, gram, factorize(gram, damping=0.01), matching=0.5)
    found = PRUNERS["admm"](weight, gram, sparsity=0.0, matching=0.5, steps=200)
    torch.testing.assert_close(found.weight, whole)
