"""Weights of linears with one input become one matrix, and a bad one is named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from birdbone.errors import SolverError
from birdbone.models.blocks.linears import Linear
from birdbone.models.passes.stacking import stacked


def linear(name: str, rows: int, **more: int) -> Linear:
    return Linear(f"model.layers.0.self_attn.{name}.weight", (rows, 8), **more)


def weight(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))


def test_rows_stand_below_each_other_in_order() -> None:
    q, k, v = weight(6, 0), weight(2, 1), weight(3, 2)
    found = stacked([(linear("q_proj", 6), q), (linear("k_proj", 2), k), (linear("v_proj", 3), v)])
    assert found.shape == (11, 8)
    for rows, expected in zip(found.split([6, 2, 3]), (q, k, v), strict=True):
        assert torch.equal(rows, expected)


def test_one_linear_is_its_own_stack() -> None:
    q = weight(6, 0)
    assert torch.equal(stacked([(linear("q_proj", 6), q)]), q)


def test_the_weights_are_not_changed_through_the_stack() -> None:
    q = weight(6, 0)
    before = q.clone()
    stacked([(linear("q_proj", 6), q), (linear("k_proj", 2), weight(2, 1))]).zero_()
    assert torch.equal(q, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_linear_that_is_not_finite_is_named(value: float) -> None:
    broken = weight(2, 1)
    broken[1, 3] = value
    with pytest.raises(
        SolverError, match=r"^layer 'model\.layers\.0\.self_attn\.k_proj': .*finite"
    ) as caught:
        stacked([(linear("q_proj", 6), weight(6, 0)), (linear("k_proj", 2), broken)])
    assert isinstance(caught.value.__cause__, SolverError)


def test_an_expert_is_named_with_its_number() -> None:
    broken = torch.full((2, 8), float("nan"))
    with pytest.raises(SolverError, match=r"^layer 'model\.layers\.0\.self_attn\.up\[3\]': "):
        stacked([(linear("up", 2, expert=3), broken)])
