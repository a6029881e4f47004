"""What experts that saw few tokens are solved on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from birdbone.errors import DataError
from birdbone.models.blocks.linears import Linear, expert_kind
from birdbone.models.passes.experts import Fellows
from birdbone.models.passes.inputs import Group
from birdbone.solvers.gram import GramAccumulator

WIDTH = 4


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def group(linear: Linear, inputs: Tensor) -> Group[GramAccumulator]:
    accumulator = GramAccumulator(WIDTH)
    if len(inputs):
        accumulator.add(inputs)
    return Group([linear], accumulator)


def expert(index: int, tensor: str = "layers.0.experts.up") -> Linear:
    return Linear(tensor, (8, WIDTH), expert=index, plain=False)


def test_missing_tokens_are_the_average_of_all_that_fellows_saw() -> None:
    seen = [rows(9, 0), rows(1, 1), rows(0, 2)]
    groups = [group(expert(index), inputs) for index, inputs in enumerate(seen)]
    groups.append(group(expert(0, "layers.0.experts.down"), rows(9, 3)))
    fellows = Fellows(groups)
    every = torch.cat(seen)
    mean = every.T @ every / 10
    plenty, few, none = (fellows.gram(each) for each in groups[:3])
    torch.testing.assert_close(plenty.matrix, seen[0].T @ seen[0])
    torch.testing.assert_close(few.matrix, seen[1].T @ seen[1] + 3 * mean)
    torch.testing.assert_close(none.matrix, 4 * mean)
    assert [each.num_borrowed for each in (plenty, few, none)] == [0, 3, 4]
    assert [each.num_tokens for each in (plenty, few, none)] == [9, 1, 0]


def test_experts_held_as_single_linears_are_fellows_too() -> None:
    one, other = (
        Linear(f"layers.0.moe.experts.{index}.w1.weight", (8, WIDTH)) for index in (0, 11)
    )
    assert expert_kind(one) == expert_kind(other) == "layers.0.moe.experts.*.w1.weight"
    assert expert_kind(Linear("layers.0.mlp.up.weight", (8, WIDTH))) is None
    groups = [group(one, rows(6, 0)), group(other, rows(0, 0))]
    assert Fellows(groups).gram(groups[1]).num_borrowed == 4


def test_where_no_fellow_saw_a_token_it_is_refused() -> None:
    groups = [group(expert(0), rows(0, 0)), group(expert(1), rows(0, 0))]
    with pytest.raises(DataError, match=r"no expert of 'layers.0.experts.up' received a token"):
        Fellows(groups)


def test_a_linear_that_is_no_expert_borrows_nothing_and_needs_tokens() -> None:
    wide = Linear("layers.0.up.weight", (8, 64))
    accumulator = GramAccumulator(64)
    accumulator.add(torch.ones(3, 64))
    few = Group([wide], accumulator)
    with pytest.raises(DataError, match=r"'layers.0.up' received 3 .* for 64 inputs"):
        Fellows([few]).gram(few)
    accumulator.add(torch.ones(1, 64))
    assert Fellows([few]).gram(few).num_borrowed == 0
