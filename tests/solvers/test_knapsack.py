"""The multiple-choice knapsack, against every selection there is."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.knapsack import Option, solve_knapsack

_OPTIONS = st.builds(
    Option,
    size=st.integers(0, 30),
    cost=st.floats(0, 100, allow_nan=False).map(lambda cost: round(cost, 2)),
)
_ITEMS = st.lists(st.lists(_OPTIONS, min_size=1, max_size=4), min_size=1, max_size=5)


def _best(items: list[list[Option]], budget: int) -> float:
    """The least cost within the budget, by trying all selections."""
    return min(
        (
            math.fsum(option.cost for option in selection)
            for selection in itertools.product(*items)
            if sum(option.size for option in selection) <= budget
        ),
        default=math.inf,
    )


@given(items=_ITEMS, budget=st.integers(0, 160), scale=st.sampled_from([1, 7, 1024]))
def test_least_cost(items: list[list[Option]], budget: int, scale: int) -> None:
    scaled = [[Option(each.size * scale, each.cost) for each in options] for options in items]
    best = _best(scaled, budget * scale)
    if math.isinf(best):
        with pytest.raises(SettingError, match="smallest options take"):
            solve_knapsack(scaled, budget * scale)
        return
    found = solve_knapsack(scaled, budget * scale)
    chosen = [options[index] for options, index in zip(scaled, found.chosen, strict=True)]
    assert found.exact
    assert found.size == sum(option.size for option in chosen) <= budget * scale
    assert found.cost == pytest.approx(math.fsum(option.cost for option in chosen))
    assert found.cost == pytest.approx(best, abs=1e-9)


@given(items=_ITEMS, budget=st.integers(0, 160))
def test_coarse_within_budget(items: list[list[Option]], budget: int) -> None:
    floor = sum(min(option.size for option in options) for options in items)
    found = solve_knapsack(items, budget + floor, max_cells=4 * len(items))
    assert found.size <= budget + floor
    assert found.cost >= _best(items, budget + floor) - 1e-9


def test_large_unit() -> None:
    """Sizes that share a divisor need as many states as there are multiples of it."""
    items = [[Option(0, 1.0), Option(10**9, 0.0)]] * 3
    found = solve_knapsack(items, 2 * 10**9)
    assert found.unit == 10**9
    assert found.exact
    assert found.cost == 1.0


def test_coarse_unit_is_told() -> None:
    items = [[Option(0, 1.0), Option(3, 0.5), Option(1000, 0.0)]] * 2
    found = solve_knapsack(items, 1003, max_cells=20)
    assert not found.exact
    assert found.unit > 1


def test_smallest_of_equal_cost() -> None:
    assert solve_knapsack([[Option(9, 1.0), Option(4, 1.0)]], 100).chosen == (1,)


def test_no_option() -> None:
    with pytest.raises(SettingError, match="item 1 has no option"):
        solve_knapsack([[Option(1, 0.0)], []], 10)


@pytest.mark.parametrize("cost", [math.nan, math.inf])
def test_cost_not_finite(cost: float) -> None:
    with pytest.raises(SolverError, match="costs must be finite"):
        solve_knapsack([[Option(1, cost)]], 10)


def test_too_many_options() -> None:
    with pytest.raises(SettingError, match="at most 256"):
        solve_knapsack([[Option(size, float(300 - size)) for size in range(300)]], 1000)
