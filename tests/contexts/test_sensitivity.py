"""The least loss of a linear at a number of bits."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdbone.contexts.sensitivity import GridLoss, LinearSensitivity, Sensitivity

grid_losses = st.builds(
    GridLoss,
    bits=st.integers(2, 8),
    group_size=st.sampled_from([None, 16, 32, 64]),
    num_bytes=st.integers(1, 10**6),
    loss=st.floats(0, 10),
)


def linear(*grids: GridLoss) -> LinearSensitivity:
    return LinearSensitivity((16, 64), 2048, "a linear", 0.5, grids)


def test_best_group_size() -> None:
    found = linear(GridLoss(4, 64, 500, 0.3), GridLoss(4, 16, 700, 0.1), GridLoss(3, 16, 600, 0.05))
    assert found.loss_at(4) == 0.1
    assert found.loss_at(3) == 0.05


def test_bits_without_an_estimate() -> None:
    assert linear(GridLoss(4, 64, 500, 0.3)).loss_at(2) is None
    assert linear().loss_at(4) is None


def test_a_loss_of_zero_is_an_estimate() -> None:
    assert linear(GridLoss(8, None, 900, 0.0)).loss_at(8) == 0.0


@settings(max_examples=50)
@given(st.lists(grid_losses, max_size=12), st.integers(2, 8))
def test_brute_force(grids: list[GridLoss], bits: int) -> None:
    """The value is attained by a grid of these bits, and none of them is below it."""
    losses = [each.loss for each in grids if each.bits == bits]
    found = linear(*grids).loss_at(bits)
    assert (found is None) == (not losses)
    if found is not None:
        assert found in losses
        assert all(found <= loss for loss in losses)


@settings(max_examples=50)
@given(st.lists(grid_losses, min_size=1, max_size=6), grid_losses)
def test_another_grid_costs_no_more(grids: list[GridLoss], more: GridLoss) -> None:
    before = linear(*grids).loss_at(more.bits)
    after = linear(*grids, more).loss_at(more.bits)
    assert after is not None
    assert after <= (more.loss if before is None else before)


def test_the_summary_leaves_out_the_linears() -> None:
    found = Sensitivity({"model.layers.0.up": linear()}, None, "id", "some text", 2048)
    assert "model.layers.0.up" not in repr(found)
    assert "some text" in repr(found)
    with pytest.raises(FrozenInstanceError):
        found.text = "other"  # type: ignore[misc]
