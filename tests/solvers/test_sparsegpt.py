from __future__ import annotations

import pytest
import torch
from torch import Tensor

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.factor import factorize
from birdbone.solvers.gram import Gram
from birdbone.solvers.masks import Pattern
from birdbone.solvers.sparsegpt import prune_sparsegpt, sparsegpt_update
from birdbone.solvers.wanda import prune_wanda


def published_loop(
    weight: Tensor, upper: Tensor, *, share: float | None = None, n_of_m: tuple[int, int] = (0, 1)
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 of the paper, one column at a time over blocks of 128, nothing transposed."""
    weight, rows, cols = weight.clone(), *weight.shape
    mask = torch.ones_like(weight, dtype=torch.bool)
    for start in range(0, cols, 128):
        stop = min(start + 128, cols)
        if share is not None:
            scores = weight[:, start:stop] ** 2 / upper.diagonal()[start:stop] ** 2
            removed = scores.flatten().argsort()[: round(share * scores.numel())]
            mask[:, start:stop].view(rows, -1)[
                removed // (stop - start), removed % (stop - start)
            ] = False
        for column in range(start, stop):
            n, m = n_of_m
            if n and column % m == 0:
                scores = (
                    weight[:, column : column + m] ** 2 / upper.diagonal()[column : column + m] ** 2
                )
                mask[:, column : column + m].scatter_(1, scores.argsort(dim=1)[:, : m - n], False)
            error = weight[:, column] * ~mask[:, column] / upper[column, column]
            weight[:, column] *= mask[:, column]
            weight[:, column + 1 :] -= error.unsqueeze(1) * upper[column, column + 1 :]
    return weight * mask, mask


@pytest.mark.parametrize(("rows", "cols"), [(8, 8), (4, 9), (6, 128), (10, 130), (5, 300)])
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_unstructured_is_the_published_algorithm(make_layer, rows, cols, share) -> None:
    layer = make_layer(rows, cols, tokens=2 * cols)
    expected, mask = published_loop(layer.weight, factorize(layer.gram).upper, share=share)
    pruned = prune_sparsegpt(layer.weight, layer.gram, sparsity=share)
    assert torch.equal(pruned.mask, mask)
    torch.testing.assert_close(pruned.weight, expected)  # float64, orders of summing differ


@pytest.mark.parametrize("pattern", [(2, 4), (4, 8), (3, 5), (7, 12), (10, 20), (100, 150)])
def test_n_of_m_is_the_published_algorithm(make_layer, pattern) -> None:
    layer = make_layer(6, 300 if 300 % pattern[1] == 0 else 264, tokens=600)
    expected, mask = published_loop(layer.weight, factorize(layer.gram).upper, n_of_m=pattern)
    pruned = prune_sparsegpt(layer.weight, layer.gram, pattern=Pattern(pattern))
    assert torch.equal(pruned.mask, mask)
    torch.testing.assert_close(pruned.weight, expected)


def test_float32_equals_float64_given_the_mask(make_layer) -> None:
    layer = make_layer(32, 300, tokens=600)
    mask = prune_wanda(layer.weight, layer.gram, sparsity=0.5).mask
    exact = sparsegpt_update(layer.weight, factorize(layer.gram), mask)
    single = Gram(layer.gram.matrix.float(), 600)
    rounded = sparsegpt_update(layer.weight.float(), factorize(single), mask)
    # 300 columns of float32 errors, damped Hessian of condition about 1e3
    torch.testing.assert_close(rounded, exact.float(), atol=1e-4, rtol=1e-4)


def test_removing_leading_columns_is_optimal_brain_surgery(make_layer) -> None:
    """With all survivors after all removed, the greedy update is the least-squares optimum."""
    layer = make_layer()
    mask = torch.ones_like(layer.weight, dtype=torch.bool)
    mask[:, :3] = False
    updated = sparsegpt_update(layer.weight, factorize(layer.gram, damping=0.0), mask)
    outputs = layer.inputs @ layer.weight.T
    best = torch.linalg.lstsq(layer.inputs[:, 3:], outputs).solution.T
    torch.testing.assert_close(updated[:, 3:], best)


def test_error_lies_between_least_squares_and_no_update(make_layer) -> None:
    layer = make_layer()
    pruned = prune_sparsegpt(layer.weight, layer.gram, sparsity=0.5)
    outputs = layer.inputs @ layer.weight.T
    best = 0.0
    for row, kept in enumerate(pruned.mask):
        support = layer.inputs[:, kept]
        solution = torch.linalg.lstsq(support, outputs[:, row : row + 1]).solution
        best += float((support @ solution - outputs[:, row : row + 1]).square().sum())
    untouched = (outputs - layer.inputs @ (layer.weight * pruned.mask).T).square().sum()
    total = outputs.square().sum()
    assert best / total < pruned.relative_error < untouched / total


@pytest.mark.parametrize("sparsity", [0.001, 0.1, 0.333, 0.5, 0.999])
@pytest.mark.parametrize("cols", [129, 300])
def test_the_count_is_exact_over_uneven_blocks(make_layer, sparsity, cols) -> None:
    layer = make_layer(7, cols, tokens=2 * cols)
    pruned = prune_sparsegpt(layer.weight, layer.gram, sparsity=sparsity)
    assert int((~pruned.mask).sum()) == round(sparsity * 7 * cols)


def test_weights_on_dead_features_are_zeroed_and_harm_none(make_layer) -> None:
    layer = make_layer()
    layer.inputs[:, 2] = 0.0
    gram = Gram(layer.inputs.T @ layer.inputs, 64)
    pruned = prune_sparsegpt(layer.weight, gram, sparsity=0.25)
    assert (pruned.weight[:, 2] == 0).all()
    assert (~pruned.mask[:, 2]).all()
    live = [0, 1, 3, 4, 5, 6, 7]
    alone = sparsegpt_update(
        layer.weight[:, live],
        factorize(Gram(gram.matrix[live][:, live], 64)),
        pruned.mask[:, live],
    )
    torch.testing.assert_close(pruned.weight[:, live], alone)


def test_raised_damping_is_recorded(make_layer) -> None:
    gram = Gram(torch.tensor([[1.0, 1.1], [1.1, 1.0]]), 2)
    pruned = prune_sparsegpt(torch.ones(3, 2), gram, sparsity=0.5, damping=0.02)
    assert pruned.damping == pytest.approx(0.2)
    assert pruned.escalations == 1


def test_a_weight_that_outgrows_its_dtype_is_refused(make_layer) -> None:
    layer = make_layer()
    largest = torch.full((8, 8), 65504.0, dtype=torch.float16)
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[:, :4] = False
    with pytest.raises(SolverError, match=r"pruned weight in torch.float16 .* infinite"):
        sparsegpt_update(largest, factorize(layer.gram), mask)


def test_given_mask_and_factor_must_fit(make_layer) -> None:
    layer = make_layer()
    factor, small = factorize(layer.gram), factorize(make_layer(6, 6).gram)
    ordered = factorize(layer.gram, descending=True)
    with pytest.raises(SettingError, match=r"weight \(8, 8\) and mask \(8, 7\)"):
        sparsegpt_update(layer.weight, factor, torch.ones(8, 7, dtype=torch.bool))
    with pytest.raises(SettingError, match=r"mask \(8, 8\) of dtype torch.float32"):
        sparsegpt_update(layer.weight, factor, torch.ones(8, 8))
    with pytest.raises(SettingError, match=r"descending order"):
        prune_sparsegpt(layer.weight, layer.gram, sparsity=0.5, factor=ordered)
    with pytest.raises(SettingError, match=r"weight \(8, 8\) and factor \(6, 6\)"):
        prune_sparsegpt(layer.weight, layer.gram, sparsity=0.5, factor=small)
