"""The mean squares of a linear's inputs, however the second moment was collected."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from birdbone.contexts.profile import BlockProfile, LinearProfile, Profile


def linear(second_moment: Tensor) -> LinearProfile:
    return LinearProfile((8, len(second_moment)), 64, second_moment, 1.0, (), ())


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 5))
def test_both_forms_agree(width: int, tokens: int, seed: int) -> None:
    """The diagonal of the mean of x_i x_j is the mean of x_j squared."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(tokens, width, generator=generator)
    squares = inputs.square().mean(0)
    full = linear(inputs.T @ inputs / tokens)
    assert full.mean_square.shape == (width,)
    # The product sums in another order.
    torch.testing.assert_close(full.mean_square, squares, atol=1e-6, rtol=1e-5)
    assert torch.equal(linear(squares).mean_square, squares)


def test_products_of_other_channels_do_not_count() -> None:
    found = linear(torch.tensor([[4.0, 9.0], [9.0, 1.0]]))
    assert found.mean_square.tolist() == [4.0, 1.0]


@pytest.mark.parametrize("form", [torch.ones(3), torch.ones(3, 3)])
def test_reading_changes_nothing(form: Tensor) -> None:
    found = linear(form)
    before = found.second_moment.clone()
    (found.mean_square + 5).mul_(2)
    assert torch.equal(found.second_moment, before)


def test_a_summary_is_short() -> None:
    """No tensors and no table of linears in what a notebook or a log prints."""
    one = linear(torch.full((64, 64), 7.0))
    whole = Profile({"up_proj": one}, (BlockProfile(0.25, 100, 400),), "words", 64)
    assert "tensor" not in repr(one)
    assert repr(whole) == "Profile(text='words', num_tokens=64)"
