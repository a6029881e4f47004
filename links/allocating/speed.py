"""Ways to store a model as a GGUF file that run at a wanted speed: time in place of bytes.

The time of a token is taken to be a sum over the weights of all matrices, of which each takes as
long as its type does. The times of the types come from files of one type each, which are measured.
A knapsack over them finds candidates; these are measured too, and the limit is corrected by what
was measured. Work that does not depend on types is part of every weight's time.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ...checkpoints import Checkpoint
from ...contexts.allocation import Allocation, Candidate
from ...contexts.sensitivity import GridLoss
from ...engine import in_thread
from .candidates import allocate_candidates, allocated_within
from .choices import Choices, formats_of, is_known, outlined_candidate, priced, smallest_candidate
from .stored_matrices import tables
from .uniform import uniform_types

Stopwatch = Callable[[Sequence[Checkpoint]], Awaitable[Sequence[float]]]
"""Measures how many times as many tokens per second as the original some outlines generate."""

_TRIES = 3
_UNITS = 200_000  # of the knapsack, in the time of one token of the original
_LEAST_TIME = 0.05  # of the mean time per weight: noise must not make a type free


@dataclass(frozen=True)
class Times:
    """How long a token takes, as a fraction of its time in the original.

    Attributes:
        weights: of each matrix the weights that a token multiplies, by name, as fractions of all.
        per_type: time if all weights had that type.
    """

    weights: Mapping[str, float]
    per_type: Mapping[str, float]

    def of(self, candidate: Candidate) -> float:
        """The time of a candidate."""
        every = candidate.grids.items()
        return sum(self.of_matrix(name, grid.ggml_type) for name, grid in every)

    def of_matrix(self, name: str, kind: str | None) -> float:
        """The time of one matrix of a type; of a type that was not measured, the mean time."""
        mean = sum(self.per_type.values()) / len(self.per_type)
        return self.weights[name] * self.per_type.get(str(kind), mean)


async def fast_allocation(
    choices: Choices,
    speed: float,
    stopwatch: Stopwatch,
    *,
    budget_bytes: int,
    variants: int,
    uniform: int,
) -> Allocation:
    """The candidates that are worth building, each measured to be fast enough.

    Args:
        speed: how many times as many tokens per second as the original.
        stopwatch: measures outlines of candidates.
        budget_bytes: what the allocation states as its budget of bytes.
        variants: how many allocated candidates at most.
        uniform: how many uniform candidates at most.
    """
    choices.require_any()
    plain = [priced(choices, each) for each in uniform_types(choices, one_type=True)]
    measured = await _measured(choices, stopwatch, plain)
    times = type_times(choices, measured)
    limit = 1 / speed
    for _ in range(_TRIES):
        wanted = await in_thread(_promising, choices, times, limit, measured, variants, uniform)
        if not wanted:
            break
        found = await _measured(choices, stopwatch, wanted)
        measured += found
        limit = times.of(found[0]) * (found[0].speed or 0.0) / speed
    enough = sorted((each for each in measured if (each.speed or 0) >= speed), key=_loss)
    if not enough:
        fastest = max(measured, key=lambda each: each.speed or 0.0)
        slow = _too_slow(fastest, speed)
        return Allocation(budget_bytes, (fastest,), format="gguf", too_slow=slow)
    allocated = {each.name: each for each in reversed(enough) if not each.uniform}
    kept = [*sorted(allocated.values(), key=_loss)[:variants]]
    kept += [each for each in enough if each.uniform][:uniform]
    # Where all that are fast enough are uniform and none of these was asked for, the best of them.
    return Allocation(budget_bytes, tuple(kept or enough[:1]), exact=False, format="gguf")


def guessed_allocation(
    choices: Choices, speed: float, *, original_bytes: int, variants: int, uniform: int
) -> Allocation:
    """The candidates before anything is measured: time is taken to be in proportion to bytes.

    Args:
        original_bytes: of the original as a GGUF file.
    """
    least = smallest_candidate(choices).num_bytes
    budget = max(least, int(original_bytes / speed))
    return allocate_candidates(choices, budget, variants=variants, uniform=uniform)


def num_measured(choices: Choices, variants: int, uniform: int) -> int:
    """How many files are measured at most, the original's not counted."""
    return len(list(uniform_types(choices, one_type=True))) + _TRIES * (variants + uniform)


def type_times(choices: Choices, measured: Sequence[Candidate]) -> Times:
    """The times of all types, by least squares over measured candidates."""
    weights = _multiplied(choices)
    types = sorted({str(grid.ggml_type) for each in measured for grid in each.grids.values()})
    shares = torch.zeros(len(measured), len(types), dtype=torch.float64)
    for row, each in zip(shares, measured, strict=True):
        for name, grid in each.grids.items():
            row[types.index(str(grid.ggml_type))] += weights[name]
    times = torch.tensor([[1 / (each.speed or 1)] for each in measured], dtype=torch.float64)
    solved = torch.linalg.lstsq(shares, times, driver="gelsd").solution.squeeze(1)
    least = _LEAST_TIME * float(times.mean())
    return Times(weights, dict(zip(types, solved.clamp(min=least).tolist(), strict=True)))


def _multiplied(choices: Choices) -> dict[str, float]:
    """Weights of each matrix that a token multiplies, as fractions of all.

    An embedding beside a head is only looked up. No architecture of a GGUF file has experts.
    """
    found = {
        name: float(math.prod(each.shape)) for name, each in choices.sensitivity.linears.items()
    }
    beside = list(tables(choices.checkpoint))
    if len(beside) > 1 and beside[0] in found:
        found[beside[0]] = 0.0
    total = sum(found.values())
    return {name: each / total for name, each in found.items()}


def _promising(
    choices: Choices,
    times: Times,
    limit: float,
    measured: Sequence[Candidate],
    variants: int,
    uniform: int,
) -> list[Candidate]:
    """Candidates of the least losses whose times are within a limit, unless measured already."""

    def size(name: str, grid: GridLoss) -> int:
        return round(_UNITS * times.of_matrix(name, grid.ggml_type))

    allocated = list(allocated_within(choices, int(_UNITS * limit), size))[:variants]
    alike = sorted((e for e in uniform_types(choices) if times.of(e) <= limit), key=_loss)
    found: list[Candidate] = []
    for each in (*allocated, *alike[:uniform]):
        if not is_known(each, (*measured, *found)):
            found.append(priced(choices, each))
    return found


async def _measured(
    choices: Choices, stopwatch: Stopwatch, candidates: Sequence[Candidate]
) -> list[Candidate]:
    """The candidates with their speeds."""
    speeds = await stopwatch([outlined_candidate(choices.checkpoint, each) for each in candidates])
    return [replace(each, speed=found) for each, found in zip(candidates, speeds, strict=True)]


def _loss(candidate: Candidate) -> float:
    return candidate.loss


def _too_slow(fastest: Candidate, speed: float) -> str:
    reached = math.floor(1000 * (fastest.speed or 0.0)) / 1000  # below what was asked for
    return (
        f"no ggml types make the model run {speed:g} times as fast as the original as an F16 file "
        f"in llama.cpp; the fastest measured, {formats_of(fastest)}, runs {reached:g} "
        f"times as fast; ask for less speed, or remove neurons or more of them (--remove)"
    )
