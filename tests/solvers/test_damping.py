from __future__ import annotations

import pytest
import torch

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.damping import escalate, mean_live_diagonal
from birdbone.solvers.gram import Gram

GRAM = Gram(torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]), 9)


def test_the_first_damping_that_will_do_is_taken_and_the_raises_are_counted() -> None:
    asked: list[float] = []

    def attempt(damping: float) -> str | None:
        asked.append(damping)
        return "made" if damping >= 0.9 else None

    found = escalate(GRAM, 0.01, attempt)
    assert asked == pytest.approx([0.01, 0.1, 1.0])
    assert (found.value, found.damping, found.escalations) == ("made", pytest.approx(1.0), 2)


def test_it_is_refused_after_three_raises_with_what_was_tried() -> None:
    asked: list[float] = []
    message = r"width 3 over 9 tokens is not positive definite at damping 0.02 nor, .* at 20; calib"
    with pytest.raises(SolverError, match=message):
        escalate(GRAM, 0.02, asked.append)
    assert asked == pytest.approx([0.02, 0.2, 2.0, 20.0])


@pytest.mark.parametrize("damping", [-0.1, float("nan"), float("inf")])
def test_a_damping_out_of_range_is_refused_before_anything_is_tried(damping: float) -> None:
    with pytest.raises(SettingError, match=r"damping .* is out of range; give a finite number"):
        escalate(GRAM, damping, pytest.fail)


def test_features_never_seen_are_left_out_of_the_mean() -> None:
    assert mean_live_diagonal(GRAM) == 3.0
    assert mean_live_diagonal(Gram(torch.zeros(2, 2), 1)) == 0.0
