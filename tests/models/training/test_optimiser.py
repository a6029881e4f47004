from itertools import pairwise

import pytest

from birdbone.models.training.optimiser import cosine


def test_it_rises_then_falls_and_is_never_idle() -> None:
    shares = [cosine(step, 100) for step in range(100)]
    assert shares[:10] == pytest.approx([place / 10 for place in range(1, 10)] + [shares[9]])
    assert shares[9] > 0.97
    assert shares[55] == pytest.approx(0.42, abs=0.01)
    assert all(later < earlier for earlier, later in pairwise(shares[10:]))
    assert 0 < shares[-1] < 0.001


def test_a_single_step_goes_all_the_way() -> None:
    assert cosine(0, 1) == 1.0
