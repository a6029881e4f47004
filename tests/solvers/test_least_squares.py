from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.factor import factorize
from birdbone.solvers.gram import Gram
from birdbone.solvers.least_squares import refit
from birdbone.solvers.output_error import relative_output_error
from birdbone.solvers.sparsegpt import prune_sparsegpt


def closed_form(weight: Tensor, mask: Tensor, hessian: Tensor) -> Tensor:
    """Row by row the normal equations of the columns that stay, in float64."""
    best = torch.zeros_like(weight)
    for row, kept in enumerate(mask):
        places = kept.nonzero().flatten()
        inner = hessian[places][:, places]
        best[row, places] = torch.linalg.solve(inner, hessian[places] @ weight[row])
    return best


def test_it_is_the_closed_form(make_layer) -> None:
    layer = make_layer()
    mask = torch.rand(8, 8, generator=torch.Generator().manual_seed(1)) > 0.5
    fitted = refit(layer.weight, mask, layer.gram, steps=30, damping=0.0)
    expected = closed_form(layer.weight, mask, layer.gram.matrix)
    torch.testing.assert_close(fitted, expected, rtol=1e-6, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 6), cols=st.integers(1, 12), seed=st.integers(0, 99))
def test_more_steps_never_lose_and_the_mask_holds(make_layer, rows, cols, seed) -> None:
    layer = make_layer(rows, cols, seed=seed)
    mask = torch.rand(rows, cols, generator=torch.Generator().manual_seed(seed)) > 0.4
    errors = []
    for steps in (0, 1, 3, 9):
        fitted = refit(layer.weight, mask, layer.gram, steps=steps, damping=0.0)
        assert (fitted[~mask] == 0).all()
        errors.append(relative_output_error(layer.weight, fitted, layer.gram))
    assert all(late <= early + 1e-9 for early, late in pairwise(errors))


def test_it_goes_on_from_sparsegpt_and_ends_below_it(make_layer) -> None:
    layer = make_layer(16, 64, tokens=200)
    pruned = prune_sparsegpt(layer.weight, layer.gram, sparsity=0.5)
    few = refit(layer.weight, pruned.mask, layer.gram, start=pruned.weight, steps=4)
    bare = refit(layer.weight, pruned.mask, layer.gram, steps=4)
    error, error_bare = (relative_output_error(layer.weight, w, layer.gram) for w in (few, bare))
    assert error < 0.95 * pruned.relative_error
    assert error < error_bare


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_all_kept_gives_the_weight_and_none_kept_gives_zeros(make_layer, dtype) -> None:
    layer = make_layer(dtype=torch.float32)
    weight = layer.weight.to(dtype)
    every, none = torch.ones(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
    torch.testing.assert_close(refit(weight, every, layer.gram), weight)
    zeros = refit(weight, none, layer.gram)
    assert zeros.dtype == dtype
    assert not zeros.any()
    assert not zeros.signbit().any()


def test_arguments_are_checked_and_left_alone(make_layer) -> None:
    layer = make_layer()
    mask = layer.weight.abs() > 0.5
    copies = layer.weight.clone(), mask.clone(), layer.gram.matrix.clone()
    refit(layer.weight, mask, layer.gram, start=layer.weight)
    assert all(
        torch.equal(*pair)
        for pair in zip(copies, (layer.weight, mask, layer.gram.matrix), strict=True)
    )
    with pytest.raises(SettingError, match=r"mask \(2, 8\)"):
        refit(layer.weight, mask[:2], layer.gram)
    with pytest.raises(SettingError, match=r"Gram matrix \(3, 3\)"):
        refit(layer.weight, mask, Gram(torch.eye(3), 3))
    with pytest.raises(SolverError, match=r"start of shape \(8, 8\) holds 64 NaN"):
        refit(layer.weight, mask, layer.gram, start=layer.weight * float("nan"))


def test_dead_features_stay_as_they_are(make_layer) -> None:
    layer = make_layer()
    layer.inputs[:, 3] = 0.0
    gram = Gram(layer.inputs.T @ layer.inputs, 64)
    mask = layer.weight.abs() > 0.5
    fitted = refit(layer.weight, mask, gram)
    torch.testing.assert_close(fitted[:, 3], layer.weight[:, 3] * mask[:, 3])
    assert factorize(gram).dead[3]
