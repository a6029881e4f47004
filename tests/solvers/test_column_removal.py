"""Structured OBS against least squares in float64, one set of columns after another."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.column_removal import (
    keep_columns,
    keep_groups,
    refit_columns,
    remove,
    unpruned,
)
from birdbone.solvers.factor import factorize
from birdbone.solvers.gram import Gram
from birdbone.solvers.output_error import relative_output_error


def best_on(layer, columns: Iterable[int]) -> Tensor:
    """Least squares on the columns, by the data itself."""
    kept = list(columns)
    wanted = layer.inputs @ layer.weight.T
    found = torch.zeros_like(layer.weight)
    found[:, kept] = torch.linalg.lstsq(layer.inputs[:, kept], wanted).solution.T
    return found


def error_on(layer, columns: Iterable[int]) -> float:
    """What least squares on the columns leaves: ||X(W - V)'||^2."""
    left = layer.inputs @ (layer.weight - best_on(layer, columns)).T
    return float(left.square().sum())


def greedy(layer, groups: list[list[int]], keep: int) -> list[int]:
    """Which groups are left when the one that least squares mends best goes, time and again."""
    kept = list(range(len(groups)))
    while len(kept) > keep:
        errors = {
            gone: error_on(layer, [c for g in kept if g != gone for c in groups[g]])
            for gone in kept
        }
        kept.remove(min(errors, key=errors.__getitem__))
    return kept


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("keep", [1, 4, 7])
def test_one_at_a_time_is_greedy_least_squares(make_layer, seed: int, keep: int) -> None:
    layer = make_layer(5, 8, seed=seed)
    found = keep_columns(layer.weight, factorize(layer.gram, damping=0.0), keep=keep, chunk=1)
    assert found.tolist() == greedy(layer, [[c] for c in range(8)], keep)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("keep", [1, 3])
def test_groups_go_by_greedy_least_squares(make_layer, seed: int, keep: int) -> None:
    layer = make_layer(5, 12, seed=seed)
    found = keep_groups(layer.weight, factorize(layer.gram, damping=0.0), size=3, keep=keep)
    assert found.tolist() == greedy(layer, [list(range(g, g + 3)) for g in (0, 3, 6, 9)], keep)


def test_what_is_left_after_removal_is_least_squares_already(make_layer) -> None:
    layer = make_layer(5, 10)
    values, inverse = unpruned(layer.weight, factorize(layer.gram, damping=0.0))
    for gone in ([1, 4], [0], [7, 8, 9]):
        remove(values, inverse, torch.tensor(gone))
    kept = [2, 3, 5, 6]
    torch.testing.assert_close(values, best_on(layer, kept))
    fewer = layer.gram.matrix[kept][:, kept].inverse()
    torch.testing.assert_close(inverse[kept][:, kept], fewer)


def test_a_chunk_of_all_goes_by_the_first_scores(make_layer) -> None:
    layer = make_layer(5, 8)
    single = {gone: error_on(layer, [c for c in range(8) if c != gone]) for gone in range(8)}
    lowest = sorted(single, key=single.__getitem__)[:3]
    found = keep_columns(layer.weight, factorize(layer.gram, damping=0.0), keep=5, chunk=8)
    assert found.tolist() == sorted(set(range(8)) - set(lowest))


def test_features_never_seen_go_first(make_layer) -> None:
    layer = make_layer(5, 8)
    layer.inputs[:, [2, 6]] = 0.0
    gram = Gram(layer.inputs.T @ layer.inputs, 64)
    heavy = layer.weight.clone()
    heavy[:, [2, 6]] *= 1000
    found = keep_columns(heavy, factorize(gram), keep=6)
    assert found.tolist() == [0, 1, 3, 4, 5, 7]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_refit_is_least_squares_on_the_columns(make_layer, dtype: torch.dtype) -> None:
    layer = make_layer(5, 10, dtype=dtype)
    kept = torch.tensor([0, 3, 4, 8])
    found = refit_columns(layer.weight, layer.gram, factorize(layer.gram, damping=0.0), kept)
    assert found.weight.dtype == dtype
    # float32: sums of 64 products of the Gram, then a solve of condition number around 100.
    atol = 1e-10 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(found.weight, best_on(layer, kept.tolist()), atol=atol, rtol=0)
    assert found.mask.any(0).nonzero().flatten().tolist() == kept.tolist()
    error = relative_output_error(layer.weight, found.weight, layer.gram)
    assert found.relative_error == pytest.approx(error)


def test_the_ridge_draws_to_the_weight_and_not_to_zero(make_layer) -> None:
    layer = make_layer(5, 8)
    kept = torch.tensor([0, 1, 4, 5, 7])
    factor = factorize(layer.gram, damping=0.5)
    shift = 0.5 * layer.gram.diagonal.mean().sqrt() ** 2
    rows = torch.cat([layer.inputs, shift.sqrt() * torch.eye(8, dtype=torch.float64)])
    wanted = torch.linalg.lstsq(rows[:, kept], rows @ layer.weight.T).solution.T
    found = refit_columns(layer.weight, layer.gram, factor, kept)
    torch.testing.assert_close(found.weight[:, kept], wanted)


def test_keeping_all_changes_nothing(make_layer) -> None:
    layer = make_layer(5, 8)
    factor = factorize(layer.gram)
    every = torch.arange(8)
    assert torch.equal(keep_columns(layer.weight, factor, keep=8), every)
    assert torch.equal(keep_groups(layer.weight, factor, size=2, keep=4), every[:4])
    fitted = refit_columns(layer.weight, layer.gram, factor, every)
    torch.testing.assert_close(fitted.weight, layer.weight)


def test_nothing_given_is_changed(make_layer) -> None:
    layer = make_layer(5, 8)
    factor = factorize(layer.gram)
    given = [each.clone() for each in (layer.weight, layer.gram.matrix, factor.upper)]
    kept = keep_columns(layer.weight, factor, keep=4)
    keep_groups(layer.weight, factor, size=4, keep=1)
    refit_columns(layer.weight, layer.gram, factor, kept)
    for before, after in zip(given, (layer.weight, layer.gram.matrix, factor.upper), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("keep", [0, 9])
def test_a_count_out_of_range_is_refused(make_layer, keep: int) -> None:
    layer = make_layer(5, 8)
    with pytest.raises(SettingError, match=f"cannot keep {keep} of 8 columns; give 1 to 8"):
        keep_columns(layer.weight, factorize(layer.gram), keep=keep)


def test_groups_that_do_not_divide_the_width_are_refused(make_layer) -> None:
    layer = make_layer(5, 8)
    with pytest.raises(SettingError, match="groups of 3 columns do not divide a width of 8"):
        keep_groups(layer.weight, factorize(layer.gram), size=3, keep=1)


def test_a_factor_in_another_order_is_refused(make_layer) -> None:
    layer = make_layer(5, 8)
    with pytest.raises(SettingError, match="this solver needs natural order"):
        keep_columns(layer.weight, factorize(layer.gram, descending=True), keep=4)


def test_weights_that_are_not_finite_are_refused(make_layer) -> None:
    layer = make_layer(5, 8)
    layer.weight[0, 0] = torch.nan
    with pytest.raises(SolverError, match="1 NaN"):
        keep_columns(layer.weight, factorize(layer.gram), keep=4)
