from __future__ import annotations

import pytest
import torch

from birdbone.errors import SettingError
from birdbone.solvers.budget import Budget, rough_threshold
from birdbone.solvers.masks import UNSTRUCTURED, Pattern


def budget(rows: int, cols: int, sparsity: float, heights=None) -> Budget:
    weight = torch.zeros(rows, cols)
    return Budget.of(weight, sparsity=sparsity, pattern=UNSTRUCTURED, heights=heights)


def test_every_stacked_layer_loses_its_own_share_exactly() -> None:
    scores = torch.rand(9, 7, generator=torch.Generator().manual_seed(0))
    scores[:4] += 1  # as one layer, only the lower rows would lose anything
    kept = budget(9, 7, 0.5, (4, 2, 3)).keep(scores)
    assert [int((~part).sum()) for part in kept.split((4, 2, 3))] == [14, 7, 10]
    alone = budget(4, 7, 0.5).keep(scores[:4])
    assert torch.equal(kept[:4], alone)


def test_a_rough_mask_is_near_the_share_it_was_asked_for() -> None:
    scores = torch.rand(700, 576, generator=torch.Generator().manual_seed(0))
    kept = budget(700, 576, 0.7, (400, 300)).keep_roughly(scores)
    for part in kept.split((400, 300)):
        assert float((~part).double().mean()) == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("shape", [(3072, 576), (576, 3072), (1, 100_000), (100_000, 1)])
def test_a_rough_threshold_comes_through_all_columns(shape: tuple[int, int]) -> None:
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 0.5
    values *= torch.linspace(0.1, 10, shape[1])  # a few columns would not tell of the rest
    threshold = rough_threshold(values, 0.4)
    assert float((values.abs() <= threshold).double().mean()) == pytest.approx(0.4, abs=0.015)


@pytest.mark.parametrize(("sparsity", "removed"), [(0.0, 0), (1.0, 12)])
def test_none_and_all(sparsity: float, removed: int) -> None:
    scores = torch.rand(3, 4)
    both = budget(3, 4, sparsity)
    assert int((~both.keep(scores)).sum()) == removed
    assert int((~both.keep_roughly(scores)).sum()) == removed


def test_n_of_m_is_the_same_roughly_and_exactly() -> None:
    scores = torch.rand(5, 8)
    weight = torch.zeros(5, 8)
    both = Budget.of(weight, sparsity=None, pattern=Pattern((2, 4)), heights=(3, 2))
    kept = both.keep(scores)
    assert (kept.view(5, 2, 4).sum(-1) == 2).all()
    assert torch.equal(kept, both.keep_roughly(scores))


@pytest.mark.parametrize("heights", [(2, 2), (0, 3), ()])
def test_heights_that_do_not_add_up_are_refused(heights) -> None:
    with pytest.raises(SettingError, match=r"heights .* do not add up to the weight's 3 rows"):
        budget(3, 4, 0.5, heights)
