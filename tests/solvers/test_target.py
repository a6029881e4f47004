from __future__ import annotations

import pytest
import torch

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.factor import factorize
from birdbone.solvers.gram import Gram
from birdbone.solvers.target import matched_weight, shifted_weight


@pytest.fixture
def drifted(make_layer):
    """A weight, the inputs it was made for, what it is fed now, and the Gram of both."""
    layer = make_layer(5, 8, tokens=160)
    noise = torch.randn(160, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    fed = layer.inputs + 0.3 * noise
    return layer.weight, layer.inputs, fed, Gram(fed.T @ fed, 160, layer.inputs.T @ fed)


@pytest.mark.parametrize("descending", [False, True])
def test_the_full_share_is_least_squares_on_what_was_meant(drifted, descending) -> None:
    weight, meant, fed, gram = drifted
    factor = factorize(gram, damping=0.0, descending=descending)
    found = matched_weight(weight, gram, factor, share=1.0)
    expected = torch.linalg.lstsq(fed, meant @ weight.T).solution.T
    torch.testing.assert_close(found, expected)


def test_a_share_lies_on_the_way_there(drifted) -> None:
    weight, _, _, gram = drifted
    factor = factorize(gram)
    whole = matched_weight(weight, gram, factor, share=1.0)
    half = matched_weight(weight, gram, factor, share=0.5)
    torch.testing.assert_close(half, (weight + whole) / 2)


def test_fewer_tokens_than_twenty_a_feature_are_trusted_in_proportion(drifted) -> None:
    weight, _, _, gram = drifted
    factor = factorize(gram)
    few = Gram(gram.matrix, 40, gram.cross)
    found = matched_weight(weight, few, factor, share=1.0)
    quarter = matched_weight(weight, gram, factor, share=0.25)
    torch.testing.assert_close(found, quarter)


def test_no_share_or_no_cross_sum_is_the_weight_itself(drifted) -> None:
    weight, _, _, gram = drifted
    factor = factorize(gram)
    assert torch.equal(matched_weight(weight, gram, factor, share=0.0), weight)
    alone = Gram(gram.matrix, 160)
    assert torch.equal(matched_weight(weight, alone, factor, share=1.0), weight)


def test_weights_on_dead_features_are_left(drifted) -> None:
    weight, meant, fed, _ = drifted
    fed[:, 2] = 0.0
    gram = Gram(fed.T @ fed, 160, meant.T @ fed)
    found = matched_weight(weight, gram, factorize(gram), share=1.0)
    assert torch.equal(found[:, 2], weight[:, 2])


def test_what_does_not_fit_is_refused(drifted) -> None:
    weight, _, _, gram = drifted
    factor = factorize(gram)
    with pytest.raises(SettingError, match=r"share 1.5 is out of range; give 0 to 1"):
        matched_weight(weight, gram, factor, share=1.5)
    with pytest.raises(SettingError, match=r"cross sum \(2, 2\) does not fit Gram matrix \(8, 8\)"):
        Gram(gram.matrix, 160, torch.eye(2))
    broken = Gram(gram.matrix, 160, gram.cross * float("inf"))
    with pytest.raises(SolverError, match=r"cross sum of shape \(8, 8\) holds"):
        matched_weight(weight, broken, factor, share=1.0)


def test_what_the_output_lacks_is_added_to_it(drifted) -> None:
    weight, meant, fed, gram = drifted
    lacking = meant @ weight.T - fed @ weight.T
    factor = factorize(gram)
    found = shifted_weight(weight, lacking.T @ fed, gram, factor, share=0.5)
    torch.testing.assert_close(found, matched_weight(weight, gram, factor, share=0.5))
