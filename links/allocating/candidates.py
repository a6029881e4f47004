"""Ways to store a model within a budget: allocated by a knapsack, and the best uniform ones.

Costs are estimated rises of the loss. The knapsack minimises their sum, which takes errors to be
independent and estimates to be right. Variants hedge against both: without integers of 2 bits,
whose errors are large, and with costs evened out between linears. Which candidate is best is
measured, not estimated (`select`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ...contexts.allocation import Allocation, Candidate, LinearGrid
from ...contexts.sensitivity import GridLoss, LinearSensitivity
from ...errors import SettingError
from ...solvers.knapsack import Option, solve_knapsack
from ..quantizing.embeddings import EMBEDDING_BITS
from .choices import (
    Choices,
    embedding_loss,
    formats_of,
    is_known,
    outlined_candidate,
    priced,
    smallest_candidate,
)
from .uniform import uniform_candidates

__all__ = [
    "Choices",
    "allocate_candidates",
    "allocated_within",
    "ladder_candidates",
    "outlined_candidate",
]

# The header of a file depends on what is in it, by some kilobytes; a solution that is too large by
# that is solved again with as much less.
_TRIES = 8

_EVENED = 0.5  # power of the ratio between a linear's loss and the mean that is kept


def allocate_candidates(
    choices: Choices, budget: int, *, variants: int, uniform: int, cache_bytes: int = 0
) -> Allocation:
    """The candidates that are worth building, each predicted to fit the budget exactly.

    Args:
        variants: how many allocated candidates at most.
        uniform: how many uniform candidates at most.
        cache_bytes: what a KV cache has taken of the budget already.

    Raises:
        SettingError: nothing fits, with the smallest size.
    """
    choices.require_any()
    smallest = smallest_candidate(choices)
    if smallest.num_bytes > budget:
        less = f" ({cache_bytes:,} less for the KV cache)" if cache_bytes else ""
        raise SettingError(
            f"a budget of {budget:,} bytes{less} is below the smallest size of "
            f"'{choices.checkpoint.source}', {smallest.num_bytes:,} bytes with "
            f"{formats_of(smallest)}; raise the budget, or allow "
            + ("smaller types" if choices.is_gguf else "fewer bits or larger groups")
        )
    found: list[Candidate] = []
    exact = True
    if choices.limits.mixed:
        for each, solved in _allocated(choices, budget, smallest):
            if len(found) < variants and not is_known(each, found):
                found.append(each)
                exact = exact and solved
    found += [
        each for each in uniform_candidates(choices, budget, uniform) if not is_known(each, found)
    ]
    if not found:
        raise SettingError(
            f"no uniform grid that {choices.limits} loads fits a budget of {budget:,} bytes; raise "
            f"the budget or allow more group sizes"
        )
    return Allocation(
        budget,
        tuple(found),
        exact=exact,
        format=choices.sensitivity.format,
        cache_bytes=cache_bytes,
    )


def ladder_candidates(choices: Choices, original_bytes: int, *, steps: int) -> Allocation:
    """Allocated candidates of sizes from the smallest to just below the original.

    Neighbours differ by one factor.
    """
    choices.require_any()
    smallest = smallest_candidate(choices)
    if smallest.num_bytes >= original_bytes:
        raise SettingError(
            f"no grid makes '{choices.checkpoint.source}' smaller than its {original_bytes:,} bytes"
        )
    factor = (original_bytes / smallest.num_bytes) ** (1 / steps)
    found: list[Candidate] = []
    exact = True
    for step in range(steps):
        budget = int(smallest.num_bytes * factor**step)
        if choices.limits.mixed:
            made = next(_allocated(choices, budget, smallest), None)
        else:
            made = next(((each, True) for each in uniform_candidates(choices, budget, 1)), None)
        if made is not None and not is_known(made[0], found):
            name = f"{made[0].name}, {budget / 1e6:.4g} MB"
            found.append(replace(made[0], name=name))
            exact = exact and made[1]
    return Allocation(original_bytes, tuple(found), exact=exact, format=choices.sensitivity.format)


Size = Callable[[str, GridLoss], int]
"""What a linear, by name, takes of the budget on a grid."""


@dataclass(frozen=True)
class _Item:
    """Linears that are stored alike, or the embedding: what it may be, with size and loss."""

    names: tuple[str, ...]
    grids: tuple[LinearGrid | int | None, ...]
    options: tuple[Option, ...]


def _num_bytes(name: str, grid: GridLoss) -> int:
    """The size of a linear on a grid where the budget is one of bytes."""
    return grid.num_bytes


def _items(
    choices: Choices, *, least_bits: int, evened: bool, size: Size = _num_bytes
) -> list[_Item]:
    """The items of the knapsack; a linear keeps all its grids if none has ``least_bits``."""
    mean = _mean_loss(choices) if evened else None
    items = [
        _linear_item(choices, names, least_bits, mean, size) for names in choices.kinds.values()
    ]
    embeddings = choices.sensitivity.embeddings
    if embeddings is not None:
        sizes = {EMBEDDING_BITS: embeddings.num_bytes, None: embeddings.dense_bytes}
        options = tuple(
            Option(sizes[bits], embedding_loss(choices, bits)) for bits in choices.embeddings
        )
        items.append(_Item((), choices.embeddings, options))
    return items


def _linear_item(
    choices: Choices, names: Sequence[str], least_bits: int, mean: float | None, size: Size
) -> _Item:
    linears = [choices.sensitivity.linears[name] for name in names]
    sums: dict[LinearGrid, list[Option]] = {}
    for name, linear in zip(names, linears, strict=True):
        for each in choices.grids(linear):
            grid = LinearGrid(each.bits, each.group_size, each.ggml_type)
            sums.setdefault(grid, []).append(Option(size(name, each), each.loss))
    shared = {grid: each for grid, each in sums.items() if len(each) == len(linears)}
    wide = {grid: each for grid, each in shared.items() if grid.bits >= least_bits} or shared
    factor = 1.0 if mean is None else _evening(linears, mean)
    grids: list[LinearGrid | int | None] = list(wide)
    options = [
        Option(sum(each.size for each in parts), factor * sum(each.cost for each in parts))
        for parts in wide.values()
    ]
    if choices.limits.dense:
        grids.append(None)
        options.append(Option(sum(each.dense_bytes for each in linears), 0.0))
    return _Item(tuple(names), tuple(grids), tuple(options))


def _reference_loss(linear: LinearSensitivity) -> float:
    """Loss per weight on the middle one of its grids; of ggml types on the first of 4 bits.

    The types that a linear has depend on its width, so that their middle does too.
    """
    losses = sorted(each.loss for each in linear.grids)
    chosen = losses[len(losses) // 2]
    if linear.grids[0].ggml_type is not None:
        chosen = min(linear.grids, key=lambda each: (abs(each.bits - 4), each.loss)).loss
    return chosen / (linear.shape[0] * linear.shape[1])


def _mean_loss(choices: Choices) -> float:
    losses = [_reference_loss(each) for each in choices.sensitivity.linears.values()]
    return sum(losses) / len(losses)


def _evening(linears: Sequence[LinearSensitivity], mean: float) -> float:
    """Factor that moves the losses of linears halfway to the mean, on a logarithmic scale."""
    here = sum(map(_reference_loss, linears)) / len(linears)
    return (mean / here) ** _EVENED if here > 0 and mean > 0 else 1.0


_VARIANTS = (
    ("allocated", 0, False),
    ("allocated, at least 3 bits", 3, False),
    ("allocated, evened out", 0, True),
)


def _allocated(
    choices: Choices, budget: int, smallest: Candidate
) -> Iterator[tuple[Candidate, bool]]:
    """The variants of the knapsack that fit, and whether each was solved exactly."""
    for name, least_bits, evened in _VARIANTS:
        items = _items(choices, least_bits=least_bits, evened=evened)
        floor = sum(min(option.size for option in item.options) for item in items)
        base = smallest.num_bytes - sum(
            min(option.size for option in item.options)
            for item in _items(choices, least_bits=0, evened=False)
        )
        room = budget - base
        for _ in range(_TRIES):
            if room < floor:
                break
            solved = solve_knapsack([item.options for item in items], room)
            made = priced(choices, _assembled(choices, name, items, solved.chosen))
            if made.num_bytes <= budget:
                if made.grids:  # quantize needs a linear to quantise
                    yield made, solved.exact
                break
            room = min(room, solved.size) - (made.num_bytes - budget)


def allocated_within(choices: Choices, limit: int, size: Size) -> Iterator[Candidate]:
    """The variants of the knapsack for a budget other than one of bytes; sizes are not known yet.

    If nothing is within the limit, what takes least of it.
    """
    for name, least_bits, evened in _VARIANTS:
        items = _items(choices, least_bits=least_bits, evened=evened, size=size)
        options = [item.options for item in items]
        floor = sum(min(option.size for option in each) for each in options)
        solved = solve_knapsack(options, max(limit, floor))
        yield _assembled(choices, name, items, solved.chosen)


def _assembled(
    choices: Choices, name: str, items: Sequence[_Item], chosen: Sequence[int]
) -> Candidate:
    grids: dict[str, LinearGrid] = {}
    embedding: int | None = None
    for item, index in zip(items, chosen, strict=True):
        grid = item.grids[index]
        if isinstance(grid, LinearGrid):
            grids.update(dict.fromkeys(item.names, grid))
        elif not item.names:
            embedding = grid
    loss = sum(_loss_on(choices.sensitivity.linears[each], grid) for each, grid in grids.items())
    loss += embedding_loss(choices, embedding)
    return Candidate(name, False, grids, embedding, 0, loss)


def _loss_on(linear: LinearSensitivity, grid: LinearGrid) -> float:
    wanted = (grid.bits, grid.group_size, grid.ggml_type)
    return next(
        each.loss for each in linear.grids if (each.bits, each.group_size, each.ggml_type) == wanted
    )
