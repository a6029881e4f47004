"""Zeros that come back: no more than the limit, by what they carry, and at the best values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from birdbone.errors import SettingError
from birdbone.solvers.least_squares import refit
from birdbone.solvers.masks import keep_mask
from birdbone.solvers.output_error import relative_output_error
from birdbone.solvers.regrowth import limit_regrowth, num_regrown
from birdbone.solvers.table import PRUNERS


def with_zeros(weight: torch.Tensor, share: float) -> torch.Tensor:
    """The weight with zeros at places drawn, whatever they were worth."""
    drawn = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1))
    return weight.masked_fill(~keep_mask(drawn, sparsity=share), 0.0)


def pruned_anew(layer):
    """A weight half of zeros, and what a solver keeps that knows what stood in their place."""
    weight = with_zeros(layer.weight, 0.5)
    return weight, PRUNERS["admm"](layer.weight, layer.gram, sparsity=0.6)


@pytest.mark.parametrize("name", sorted(PRUNERS))
@settings(max_examples=25, deadline=None)
@given(
    heights=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    cols=st.integers(2, 16),
    zeros=st.floats(0, 0.9),
    more=st.floats(0, 0.6),
    limit=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_no_more_come_back_than_the_limit(
    make_layer, name, heights, cols, zeros, more, limit, seed
) -> None:
    layer = make_layer(sum(heights), cols, seed=seed)
    weight = with_zeros(layer.weight, zeros)
    before = weight.clone()
    sparsity = zeros + (1 - zeros) * more
    known = layer.weight if seed % 2 else weight
    found = PRUNERS[name](known, layer.gram, sparsity=sparsity, heights=heights)
    bounded = limit_regrowth(weight, found, layer.gram, limit=limit, heights=heights)
    for part, fresh in zip(weight.split(heights), bounded.weight.split(heights), strict=True):
        assert num_regrown(part, fresh) <= math.floor(limit * int((part == 0).sum()))
    assert (bounded.weight[~bounded.mask] == 0).all()
    assert int(bounded.mask.sum()) <= int(found.mask.sum())
    if bounded is not found:
        pairs = zip(weight.split(heights), bounded.weight.split(heights), strict=True)
        errors = [relative_output_error(*pair, layer.gram) for pair in pairs]
        assert bounded.relative_errors == pytest.approx(errors)
    assert torch.equal(weight, before)


def test_as_many_weights_stay_as_the_solver_kept(make_layer) -> None:
    layer = make_layer(24, 32)
    weight, found = pruned_anew(layer)
    assert num_regrown(weight, found.weight) > 20
    for limit, back in ((0.0, 0), (0.02, 7)):
        bounded = limit_regrowth(weight, found, layer.gram, limit=limit, heights=[24])
        assert num_regrown(weight, bounded.weight) == back
        assert int(bounded.mask.sum()) == int(found.mask.sum())


def test_within_the_limit_it_is_the_very_result(make_layer) -> None:
    layer = make_layer(24, 32)
    weight, found = pruned_anew(layer)
    assert limit_regrowth(weight, found, layer.gram, limit=1.0, heights=[24]) is found


def test_those_that_carry_most_come_back_and_the_mask_gets_its_best_values(make_layer) -> None:
    layer = make_layer(24, 32)
    weight, found = pruned_anew(layer)
    bounded = limit_regrowth(weight, found, layer.gram, limit=0.02, heights=[24])
    carried = found.weight.abs() * layer.gram.column_norms
    back = (weight == 0) & (found.weight != 0)
    stayed = back & (bounded.weight != 0)
    assert carried[stayed].min() >= carried[back & ~stayed].max()
    best = refit(weight, bounded.mask, layer.gram, steps=200)
    error = relative_output_error(weight, best, layer.gram)
    assert bounded.relative_error == pytest.approx(error, rel=0.02)


def test_a_weight_that_has_no_more_to_give_keeps_fewer(make_layer) -> None:
    layer = make_layer(8, 16)
    weight = with_zeros(layer.weight, 0.75)
    found = PRUNERS["admm"](layer.weight, layer.gram, sparsity=0.25)
    bounded = limit_regrowth(weight, found, layer.gram, limit=0.0, heights=[8])
    assert int(bounded.mask.sum()) == int((weight != 0).sum())


@pytest.mark.parametrize("limit", [-0.1, 1.1, float("nan")])
def test_a_limit_that_is_no_share_is_refused(make_layer, limit) -> None:
    layer = make_layer(4, 8)
    found = PRUNERS["magnitude"](layer.weight, layer.gram, sparsity=0.5)
    with pytest.raises(SettingError, match=r"limit .* out of range"):
        limit_regrowth(layer.weight, found, layer.gram, limit=limit, heights=[4])
