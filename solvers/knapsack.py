"""Multiple-choice knapsack: one option per item, least total cost within a budget of bytes.

Minimises sum_i cost[i, c_i] subject to sum_i size[i, c_i] <= budget, by dynamic programming over
the budget (Sinha and Zoltners 1979, "The multiple-choice knapsack problem"). The state is the
budget left over the smallest total, in units of the greatest common divisor of all size
differences, so that the solution is exact. Where that takes more table cells than `MAX_CELLS`, the
unit is larger, sizes are rounded up to it, and the result says that it is not exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingError, SolverError

MAX_CELLS = 1 << 28
"""Cells of the table of choices, one byte each: items times states."""

_MOST_OPTIONS = 256  # what a cell of one byte can name


@dataclass(frozen=True)
class Option:
    """What one item may become.

    Attributes:
        size: bytes.
        cost: what it costs, in the unit of the total, finite.
    """

    size: int
    cost: float


@dataclass(frozen=True)
class Selection:
    """One option per item.

    Attributes:
        chosen: index of the option of each item.
        size: total bytes, at most the budget.
        cost: total cost.
        unit: bytes per state of the table.
        exact: whether no other selection within the budget costs less.
    """

    chosen: tuple[int, ...]
    size: int
    cost: float
    unit: int
    exact: bool


def solve_knapsack(
    items: Sequence[Sequence[Option]], budget: int, *, max_cells: int = MAX_CELLS
) -> Selection:
    """Choose one option of every item.

    Of selections of equal cost any may be returned, of options of equal cost the smallest.

    Args:
        items: the options of each item.
        budget: bytes that all chosen options may take together.
        max_cells: largest table; larger problems are solved in coarser units.

    Raises:
        SettingError: an item has no option, or the smallest options exceed the budget.
        SolverError: a cost is not finite.
    """
    useful = [_useful(place, options) for place, options in enumerate(items)]
    floors = [options[0][1].size for options in useful]
    spare = budget - sum(floors)
    if spare < 0:
        raise SettingError(
            f"the smallest options take {sum(floors):,} bytes, more than the budget of "
            f"{budget:,}; raise the budget, or allow smaller options"
        )
    extras = [
        [option.size - floor for _, option in options]
        for options, floor in zip(useful, floors, strict=True)
    ]
    spare = min(spare, sum(extra[-1] for extra in extras))
    divisor = math.gcd(*(size for extra in extras for size in extra)) or 1
    states = max_cells // max(len(items), 1)
    unit = max(divisor, -(-spare // max(states - 1, 1)))
    steps = [[-(-size // unit) for size in extra] for extra in extras]
    costs = [[option.cost for _, option in options] for options in useful]
    picked = _fill(steps, costs, spare // unit)
    chosen = [options[pick] for options, pick in zip(useful, picked, strict=True)]
    return Selection(
        chosen=tuple(place for place, _ in chosen),
        size=sum(option.size for _, option in chosen),
        cost=math.fsum(option.cost for _, option in chosen),
        unit=unit,
        exact=unit == divisor,
    )


def _useful(place: int, options: Sequence[Option]) -> list[tuple[int, Option]]:
    """The options that no smaller one matches, by ascending size and descending cost."""
    if not options:
        raise SettingError(f"item {place} has no option; give at least one")
    for option in options:
        if not math.isfinite(option.cost):
            raise SolverError(
                f"item {place} has an option of cost {option.cost}; costs must be finite"
            )
    kept: list[tuple[int, Option]] = []
    for index, option in sorted(enumerate(options), key=lambda each: (each[1].size, each[1].cost)):
        if not kept or option.cost < kept[-1][1].cost:
            kept.append((index, option))
    if len(kept) > _MOST_OPTIONS:
        raise SettingError(f"item {place} has {len(kept)} useful options; give at most 256")
    return kept


def _fill(steps: list[list[int]], costs: list[list[float]], room: int) -> list[int]:
    """The pick of each item; ``room`` is the budget in units beyond the smallest total."""
    least = torch.zeros(room + 1, dtype=torch.float64)  # [states]: least cost within a state
    picks: list[Tensor] = []
    for sizes, prices in zip(steps, costs, strict=True):
        best = least + prices[0]  # the first option is the smallest, of 0 units
        pick = torch.zeros(room + 1, dtype=torch.uint8)
        for index in range(1, len(sizes)):
            size = sizes[index]
            if size > room:
                break
            found = least[: room + 1 - size] + prices[index]
            better = found < best[size:]
            best[size:] = torch.where(better, found, best[size:])
            pick[size:].masked_fill_(better, index)
        least = best
        picks.append(pick)
    state, picked = room, []
    for sizes, pick in zip(reversed(steps), reversed(picks), strict=True):
        index = int(pick[state])
        picked.append(index)
        state -= sizes[index]
    return picked[::-1]
