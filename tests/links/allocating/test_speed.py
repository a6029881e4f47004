"""A budget of speed: candidates are the best that are measured to be fast enough."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from made_up_machine import SLOW_TYPE, Machine
from tiny_choices import gguf_choices

from birdbone.contexts.allocation import Allocation
from birdbone.formats.gguf_size import gguf_bytes
from birdbone.links.allocating.choices import Choices, is_known, outlined_candidate
from birdbone.links.allocating.speed import (
    fast_allocation,
    guessed_allocation,
    num_measured,
    type_times,
)
from birdbone.links.allocating.uniform import uniform_types


async def _allocated(
    choices: Choices, speed: float, *, drag: float = 1.0, variants: int = 2, uniform: int = 1
) -> tuple[Allocation, Machine]:
    machine = Machine(choices.checkpoint, drag)
    found = await fast_allocation(
        choices, speed, machine, budget_bytes=12_345, variants=variants, uniform=uniform
    )
    return found, machine


@pytest.mark.parametrize("variant", ["llama tied", "llama", "qwen3"])
@pytest.mark.parametrize("speed", [1.7, 2.0, 2.3])
async def test_fast_enough_and_close(variant: str, speed: float) -> None:
    choices = gguf_choices(variant)
    found, machine = await _allocated(choices, speed)
    assert found.too_slow is None
    assert (found.budget_bytes, found.format) == (12_345, "gguf")
    assert not found.current.uniform
    speeds = [each.speed or 0.0 for each in found.candidates]
    assert min(speeds) >= speed
    assert speeds[0] <= 1.05 * speed  # no faster than needed, which would cost quality
    assert [each.uniform for each in found.candidates][-1]
    assert all(found.current.loss <= each.loss for each in found.candidates)
    assert machine.measured <= num_measured(choices, 2, 1)


async def test_slow_type_is_left_out() -> None:
    """Its estimated loss is less than that of q2_k, but it takes more time than q4_k."""
    found, _ = await _allocated(gguf_choices("llama tied"), 2.2)
    assert SLOW_TYPE not in {grid.ggml_type for grid in found.current.grids.values()}


async def test_limit_is_corrected() -> None:
    """Mixtures are slower than their parts promise: what is kept is still fast enough."""
    slower, _ = await _allocated(gguf_choices("llama tied"), 1.8, drag=1.15, uniform=0)
    assert (slower.current.speed or 0) >= 1.8
    as_promised, _ = await _allocated(gguf_choices("llama tied"), 1.8, uniform=0)
    assert slower.current.loss > as_promised.current.loss


async def test_all_of_the_largest_type() -> None:
    """If that is fast enough, there is nothing to allocate."""
    found, _ = await _allocated(gguf_choices(), 1.3)
    assert found.current.uniform
    assert {grid.ggml_type for grid in found.current.grids.values()} == {"q8_0"}


@pytest.mark.parametrize(("variants", "uniform"), [(1, 0), (1, 2), (3, 1)])
async def test_counts(variants: int, uniform: int) -> None:
    found, _ = await _allocated(gguf_choices(), 1.8, variants=variants, uniform=uniform)
    kinds = [each.uniform for each in found.candidates]
    assert kinds.count(True) == uniform
    assert 1 <= kinds.count(False) <= variants
    for place, each in enumerate(found.candidates):
        assert not is_known(each, found.candidates[:place])
        assert each.num_bytes > 0


@pytest.mark.parametrize(("speed", "drag"), [(1.3, 1.0), (2.3, 3.0)])
async def test_only_uniform_files_are_fast_enough(speed: float, drag: float) -> None:
    """Although none was asked for, the best of those measured is the candidate."""
    found, _ = await _allocated(gguf_choices(), speed, drag=drag, uniform=0)
    assert found.too_slow is None
    assert [each.uniform for each in found.candidates] == [True]
    assert (found.current.speed or 0) >= speed


async def test_barely_too_slow() -> None:
    """The speed in the reason is not rounded up to the one that was asked for."""
    found, _ = await _allocated(gguf_choices(), 6.0)
    asked = math.ceil(1000 * (found.candidates[0].speed or 0.0)) / 1000
    found, _ = await _allocated(gguf_choices(), asked)
    assert f"run {asked:g} times" in str(found.too_slow)
    assert f"runs {asked - 0.001:g} times" in str(found.too_slow)


async def test_too_slow() -> None:
    """The only candidate is the fastest, and the reason names it."""
    found, _ = await _allocated(gguf_choices(), 6.0)
    assert len(found.candidates) == 1
    fastest = found.candidates[0].speed or 0.0
    assert 1 < fastest < 6
    assert found.too_slow is not None
    assert "6 times as fast as the original as an F16 file" in found.too_slow
    assert "times as fast; ask for less speed, or remove neurons" in found.too_slow


async def test_times_are_those_of_the_machine() -> None:
    """By least squares from files of one type each, some of which hold two types."""
    choices = gguf_choices("llama tied")
    machine = Machine(choices.checkpoint)
    candidates = list(uniform_types(choices, one_type=True))
    outlines = [outlined_candidate(choices.checkpoint, each) for each in candidates]
    speeds = await machine(outlines)
    timed = [replace(c, speed=s) for c, s in zip(candidates, speeds, strict=True)]
    times = type_times(choices, timed)
    for each, speed in zip(candidates, speeds, strict=True):
        assert times.of(each) == pytest.approx(1 / speed, rel=1e-6)
    assert times.per_type[SLOW_TYPE] > times.per_type["q4_k"]


def test_embedding_beside_a_head_takes_no_time() -> None:
    choices = gguf_choices("llama")
    timed = [replace(each, speed=1.5) for each in uniform_types(choices, one_type=True)]
    weights = type_times(choices, timed).weights
    assert weights["model.embed_tokens"] == 0
    assert weights["lm_head"] > 0
    assert sum(weights.values()) == pytest.approx(1)
    tied = gguf_choices("llama tied")
    timed = [replace(each, speed=1.5) for each in uniform_types(tied, one_type=True)]
    assert type_times(tied, timed).weights["model.embed_tokens"] > 0


def test_guess() -> None:
    """Before anything is measured: bytes in place of time, and the smallest if that is too few."""
    choices = gguf_choices()
    whole = gguf_bytes(choices.checkpoint, kind="f16")
    found = guessed_allocation(choices, 2.5, original_bytes=whole, variants=1, uniform=0)
    assert found.current.num_bytes <= whole / 2.5
    least = guessed_allocation(choices, 50.0, original_bytes=whole, variants=1, uniform=0)
    assert least.current.num_bytes < found.current.num_bytes
