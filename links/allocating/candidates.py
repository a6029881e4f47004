"""Ways to store a model within a budget: allocated by a knapsack, and the best uniform ones.

Costs are estimated rises of the loss. The knapsack minimises their sum, which takes errors to be
independent and estimates to be right. Variants hedge against both: without integers of 2 bits,
whose errors are large, and with costs evened out between linears. Which candidate is best is
measured, not estimated (`select`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ...checkpoints import Checkpoint, TensorRef
from ...contexts.allocation import Allocation, Candidate, LinearGrid
from ...contexts.sensitivity import GridLoss, LinearSensitivity, Sensitivity
from ...errors import SettingError
from ...models.blocks.device import stored_dtype
from ...models.planning.outline import exchanged, outlined_codes
from ...models.planning.stored_bytes import stored_bytes
from ...solvers.knapsack import Option, solve_knapsack
from ..quantizing.embeddings import EMBEDDING_BITS, outlined_embeddings
from .runtimes import Limits

# The header of a file depends on what is in it, by some kilobytes; a solution that is too large by
# that is solved again with as much less.
_TRIES = 8

_EVENED = 0.5  # power of the ratio between a linear's loss and the mean that is kept


@dataclass(frozen=True)
class Choices:
    """What may be chosen for each linear, and for the embedding.

    Attributes:
        checkpoint: the model.
        sensitivity: its estimates.
        limits: what the runtimes load.
        bits: bits that may be chosen; None for all that were estimated.
        group_sizes: the same of group sizes.
        embedding_bits: 8, None (as it is), or "auto" for either.
    """

    checkpoint: Checkpoint
    sensitivity: Sensitivity
    limits: Limits
    bits: tuple[int, ...] | None
    group_sizes: tuple[int | None, ...] | None
    embedding_bits: int | str | None

    @cached_property
    def kinds(self) -> Mapping[str, list[str]]:
        """Names of the linears that are stored alike, by kind."""
        found: dict[str, list[str]] = {}
        for name, each in self.sensitivity.linears.items():
            found.setdefault(each.kind, []).append(name)
        return found

    def grids(self, linear: LinearSensitivity) -> list[GridLoss]:
        """The grids that a linear may have."""
        return [
            each
            for each in linear.grids
            if (self.bits is None or each.bits in self.bits)
            and (self.group_sizes is None or each.group_size in self.group_sizes)
            and self.limits.takes(each.bits, each.group_size, linear.shape[1])
        ]

    @cached_property
    def embeddings(self) -> tuple[int | None, ...]:
        """What the embedding may be stored in: 8 bits, and None for as it is."""
        wanted = (EMBEDDING_BITS, None) if self.embedding_bits == "auto" else (self.embedding_bits,)
        possible = self.sensitivity.embeddings is not None and self.limits.embedding
        found = tuple(each for each in wanted if each is None or possible)
        if not found:
            raise SettingError(
                f"allocate(embedding_bits={self.embedding_bits}) is not possible: "
                + (
                    f"{self.limits} was not seen to load an embedding of 8 bits"
                    if self.sensitivity.embeddings is not None
                    else f"the embedding of '{self.checkpoint.source}' cannot be rounded"
                )
                + "; leave embedding_bits unset"
            )
        return found  # type: ignore[return-value]

    def require_any(self) -> None:
        """Refuse choices that leave a linear without a grid.

        Raises:
            SettingError: naming the linear.
        """
        for name, each in self.sensitivity.linears.items():
            if not self.grids(each):
                known = sorted({(g.bits, g.group_size or 0) for g in each.grids})
                raise SettingError(
                    f"layer '{name}' has no grid left that {self.limits} was seen to load among "
                    f"those estimated, (bits, group size; 0: whole row) {known}; allow more bits "
                    f"and group_sizes, in sensitivity too, or fewer runtimes"
                )


def allocate_candidates(
    choices: Choices, budget: int, *, variants: int, uniform: int
) -> Allocation:
    """The candidates that are worth building, each predicted to fit the budget exactly.

    Args:
        variants: how many allocated candidates at most.
        uniform: how many uniform candidates at most.

    Raises:
        SettingError: nothing fits, with the smallest size.
    """
    choices.require_any()
    smallest = _smallest(choices)
    if smallest.num_bytes > budget:
        raise SettingError(
            f"a budget of {budget:,} bytes is below the smallest size of "
            f"'{choices.checkpoint.source}', {smallest.num_bytes:,} bytes with {_formats(smallest)}"
            f"; raise the budget, or allow fewer bits or larger groups"
        )
    found: list[Candidate] = []
    exact = True
    if choices.limits.mixed:
        for each, solved in _allocated(choices, budget, smallest):
            if len(found) < variants and not _known(each, found):
                found.append(each)
                exact = exact and solved
    found += [
        each
        for each in _uniform(choices, budget, smallest, uniform)
        if not any(_alike(each, other) for other in found)
    ]
    if not found:
        raise SettingError(
            f"no uniform grid that {choices.limits} loads fits a budget of {budget:,} bytes; raise "
            f"the budget or allow more group sizes"
        )
    return Allocation(budget, tuple(found), exact=exact)


def ladder_candidates(choices: Choices, original_bytes: int, *, steps: int) -> Allocation:
    """Allocated candidates of sizes from the smallest to just below the original.

    Neighbours differ by one factor.
    """
    choices.require_any()
    smallest = _smallest(choices)
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
            made = next(((each, True) for each in _uniform(choices, budget, smallest, 1)), None)
        if made is not None and not _known(made[0], found):
            name = f"{made[0].name}, {budget / 1e6:.4g} MB"
            found.append(replace(made[0], name=name))
            exact = exact and made[1]
    return Allocation(original_bytes, tuple(found), exact=exact)


def outlined_candidate(checkpoint: Checkpoint, candidate: Candidate) -> Checkpoint:
    """The model as the candidate stores it, without values."""
    made: dict[str, TensorRef] = {}
    for name, grid in candidate.grids.items():
        ref = checkpoint.refs[f"{name}.weight"]
        groups = 1 if grid.group_size is None else ref.shape[1] // grid.group_size
        made[f"{name}.weight"] = outlined_codes(
            ref, grid.bits, groups, stored_dtype(checkpoint, ref)
        )
    if candidate.embedding_bits is not None:
        made.update(outlined_embeddings(checkpoint))
    return exchanged(checkpoint, made)


def _priced(choices: Choices, candidate: Candidate) -> Candidate:
    """The candidate with its size in bytes, to the byte."""
    outline = outlined_candidate(choices.checkpoint, candidate)
    return replace(candidate, num_bytes=stored_bytes(outline))


def _smallest(choices: Choices) -> Candidate:
    """The candidate with the fewest bytes, whatever it costs."""
    grids, loss = {}, 0.0
    for name, each in choices.sensitivity.linears.items():
        least = min(choices.grids(each), key=lambda grid: (grid.num_bytes, grid.loss))
        grids[name] = LinearGrid(least.bits, least.group_size)
        loss += least.loss
    bits = EMBEDDING_BITS if EMBEDDING_BITS in choices.embeddings else None
    found = Candidate("smallest", False, grids, bits, 0, loss + _embedding_loss(choices, bits))
    return _priced(choices, found)


def _embedding_loss(choices: Choices, bits: int | None) -> float:
    embeddings = choices.sensitivity.embeddings
    return 0.0 if bits is None or embeddings is None else embeddings.loss


def _formats(candidate: Candidate) -> str:
    pairs = {(each.bits, each.group_size or 0) for each in candidate.grids.values()}
    listed = ", ".join(
        f"{bits} bits and {f'groups of {size}' if size else 'one scale per row'}"
        for bits, size in sorted(pairs)
    )
    embedding = "" if candidate.embedding_bits is None else " and an 8-bit embedding"
    return f"{listed}{embedding}"


def _known(candidate: Candidate, found: Iterable[Candidate]) -> bool:
    return any(_alike(candidate, each) for each in found)


def _alike(one: Candidate, other: Candidate) -> bool:
    return dict(one.grids) == dict(other.grids) and one.embedding_bits == other.embedding_bits


@dataclass(frozen=True)
class _Item:
    """Linears that are stored alike, or the embedding: what it may be, with size and loss."""

    names: tuple[str, ...]
    grids: tuple[LinearGrid | int | None, ...]
    options: tuple[Option, ...]


def _items(choices: Choices, *, least_bits: int, evened: bool) -> list[_Item]:
    """The items of the knapsack; a linear keeps all its grids if none has ``least_bits``."""
    mean = _mean_loss(choices) if evened else None
    items = [_linear_item(choices, names, least_bits, mean) for names in choices.kinds.values()]
    embeddings = choices.sensitivity.embeddings
    if embeddings is not None:
        sizes = {EMBEDDING_BITS: embeddings.num_bytes, None: embeddings.dense_bytes}
        options = tuple(
            Option(sizes[bits], _embedding_loss(choices, bits)) for bits in choices.embeddings
        )
        items.append(_Item((), choices.embeddings, options))
    return items


def _linear_item(
    choices: Choices, names: Sequence[str], least_bits: int, mean: float | None
) -> _Item:
    linears = [choices.sensitivity.linears[name] for name in names]
    sums: dict[LinearGrid, list[GridLoss]] = {}
    for linear in linears:
        for each in choices.grids(linear):
            sums.setdefault(LinearGrid(each.bits, each.group_size), []).append(each)
    shared = {grid: each for grid, each in sums.items() if len(each) == len(linears)}
    wide = {grid: each for grid, each in shared.items() if grid.bits >= least_bits} or shared
    factor = 1.0 if mean is None else _evening(linears, mean)
    grids: list[LinearGrid | int | None] = list(wide)
    options = [
        Option(sum(each.num_bytes for each in parts), factor * sum(each.loss for each in parts))
        for parts in wide.values()
    ]
    if choices.limits.dense:
        grids.append(None)
        options.append(Option(sum(each.dense_bytes for each in linears), 0.0))
    return _Item(tuple(names), tuple(grids), tuple(options))


def _reference_loss(linear: LinearSensitivity) -> float:
    """Loss per weight on the middle one of its grids."""
    losses = sorted(each.loss for each in linear.grids)
    return losses[len(losses) // 2] / (linear.shape[0] * linear.shape[1])


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
            made = _priced(choices, _assembled(choices, name, items, solved.chosen))
            if made.num_bytes <= budget:
                yield made, solved.exact
                break
            room = min(room, solved.size) - (made.num_bytes - budget)


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
    loss += _embedding_loss(choices, embedding)
    return Candidate(name, False, grids, embedding, 0, loss)


def _loss_on(linear: LinearSensitivity, grid: LinearGrid) -> float:
    return next(
        each.loss
        for each in linear.grids
        if (each.bits, each.group_size) == (grid.bits, grid.group_size)
    )


def _uniform(choices: Choices, budget: int, smallest: Candidate, count: int) -> list[Candidate]:
    """The uniform candidates of least estimated loss that fit."""
    linears = choices.sensitivity.linears
    bits = sorted({grid.bits for each in linears.values() for grid in choices.grids(each)})
    sizes = {grid.group_size for each in linears.values() for grid in choices.grids(each)}
    made = [
        found
        for width in bits
        for size in sorted(sizes, key=lambda size: math.inf if size is None else size)
        for embedding in choices.embeddings
        if (found := _uniform_candidate(choices, width, size, embedding)) is not None
    ]
    fitting: list[Candidate] = []
    for each in sorted(made, key=lambda each: each.loss):
        if len(fitting) == count:
            break
        if _known(each, fitting):
            continue
        priced = _priced(choices, each)
        if priced.num_bytes <= budget:
            fitting.append(priced)
    return fitting


def _uniform_candidate(
    choices: Choices, bits: int, group_size: int | None, embedding: int | None
) -> Candidate | None:
    """All linears in the largest groups up to a size that divide their width, if there are some."""
    grids, loss, least = {}, 0.0, group_size
    for name, each in choices.sensitivity.linears.items():
        fitting = [grid for grid in choices.grids(each) if grid.bits == bits]
        sized = [
            grid
            for grid in fitting
            if (grid.group_size is None) == (group_size is None)
            and (grid.group_size or 0) <= (group_size or 0)
        ]
        if not sized:
            return None
        chosen = max(sized, key=lambda grid: grid.group_size or 0)
        grids[name] = LinearGrid(bits, chosen.group_size)
        loss += chosen.loss
        least = (
            chosen.group_size if chosen.group_size is None else min(least or 0, chosen.group_size)
        )
    if not choices.limits.mixed and len(set(grids.values())) > 1:
        return None
    groups = "one scale per row" if group_size is None else f"groups of {group_size}"
    if least != group_size:
        groups += f" or {least}"
    name = f"{bits} bits, {groups}"
    if embedding is not None:
        name += f", embedding {embedding} bits"
    total = loss + _embedding_loss(choices, embedding)
    return Candidate(name, True, grids, embedding, 0, total)
