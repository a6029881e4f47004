"""How much a wave removes, on a model whose possible sizes are known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdbone.errors import SettingError
from birdbone.links.wave.course import Course
from birdbone.links.wave.cuts import Cut
from birdbone.models.evaluation.footprint import Footprint

WHOLE = 1000


def model(size: int) -> Footprint:
    return Footprint(parameters=size, masked=0, linear_weights=size, num_bytes=size, flops=size)


class Steps:
    """A model of ``size`` parameters that can lose whole steps, down to one step."""

    def __init__(self, size: int, step: int) -> None:
        self.size, self.step = size, step
        self.weight, self.in_steps = model(size), step > 1

    def cut(self, fraction: float) -> Cut | None:
        """At most the fraction, or one step if that is more; as `Cutter.cut`."""
        if self.size <= self.step:
            return None
        count = max(1, int(fraction * self.size / self.step + 1e-9))
        left = max(self.step, self.size - count * self.step)
        return Cut((fraction,), model(left), fraction)


def course(target: float | None) -> Course:
    return Course(model(WHOLE), "parameters", target)


def cut(target: float | None, cutter: Any, fraction: float) -> int | None:
    found = course(target).cut(cutter, fraction)
    return None if found is None else found.weight.parameters


def test_without_a_target_the_fraction_is_removed_until_nothing_is_left() -> None:
    assert cut(None, Steps(1000, 10), 0.2) == 800
    assert cut(None, Steps(10, 10), 0.2) is None
    assert not course(None).reached(Steps(10, 10))  # type: ignore[arg-type]


def test_the_target_is_not_passed() -> None:
    assert cut(0.5, Steps(1000, 10), 0.2) == 800
    assert cut(0.9, Steps(1000, 10), 0.2) == 900
    assert cut(0.9, Steps(900, 10), 0.2) is None


@given(st.integers(1, 40), st.integers(20, 1000), st.floats(0.05, 0.95), st.floats(0.01, 0.6))
def test_the_size_nearest_to_the_target_is_taken(
    step: int, size: int, target: float, fraction: float
) -> None:
    """The fraction limits a wave, and one step may be taken in any case."""
    most = max(1, int(fraction * size / step + 1e-9))
    reachable = [max(step, size - count * step) for count in range(1, most + 1)]
    wanted = target * WHOLE
    found = cut(target, Steps(size, step), fraction)
    if found is None:  # reached, nearer than the next size, or the smallest size
        assert size <= max(wanted + 1, step) or abs(reachable[0] - wanted) > abs(size - wanted)
    elif reachable[-1] >= wanted:
        assert found == reachable[-1]
    else:
        assert abs(found - wanted) <= min(abs(left - wanted) for left in reachable) + 1e-6


def test_a_target_that_no_size_reaches_is_refused_with_the_least() -> None:
    course(0.01).require_reachable(Steps(1000, 10))  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"10\.0% of the parameters remain .* to 0\.1000 or mo"):
        course(0.05).require_reachable(Steps(1000, 100))  # type: ignore[arg-type]


def test_a_target_that_the_model_is_nearest_to_is_refused_with_the_next_size() -> None:
    with pytest.raises(SettingError, match=r"100\.0% of .* set target to 0\.9000 or less, or a sm"):
        course(0.97).require_reachable(Steps(1000, 100))  # type: ignore[arg-type]
    course(None).require_reachable(Steps(1000, 100))  # type: ignore[arg-type]
