"""Cuts in sizes a model can have: what is forecast is what pruning then leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tiny import tiny_checkpoint
from tiny_contexts import scored

from birdbone.chains.wave_course import Course
from birdbone.chains.wave_cuts import Cut, Cutter
from birdbone.checkpoints import Checkpoint
from birdbone.engine import Chain, run
from birdbone.links import prune
from birdbone.models.footprint import MEASURES, Footprint, footprint


def cutter(checkpoint: Checkpoint, *patterns: str, multiple: int | None = None) -> Cutter:
    settings = [prune(pattern=pattern, multiple=multiple).settings for pattern in patterns]
    return Cutter(checkpoint, footprint(checkpoint), settings)


def cut(checkpoint: Checkpoint, pattern: str, share: float, multiple: int | None = None) -> Cut:
    found = cutter(checkpoint, pattern, multiple=multiple).cut(share)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("share", "left"), [(0.05, 56), (0.125, 56), (0.2, 56), (0.25, 48), (0.5, 32), (0.99, 8)]
)
def test_a_cut_takes_at_most_its_share_or_else_one_size(share: float, left: int) -> None:
    found = cut(tiny_checkpoint(), "neurons", share)
    assert round(64 * (1 - found.sparsities[0])) == left
    assert found.taken == 1 - left / 64


def test_the_multiple_asked_for_is_kept() -> None:
    [sparsity] = cut(tiny_checkpoint(), "neurons", 0.05, multiple=2).sparsities
    assert round(64 * (1 - sparsity)) == 62


def test_where_no_smaller_size_is_left_there_is_no_cut() -> None:
    narrow = tiny_checkpoint(intermediate_size=4)
    assert cutter(narrow, "neurons", multiple=4).cut(0.5) is None
    experts = tiny_checkpoint("mixtral", num_experts_per_tok=4)
    assert cutter(experts, "experts").cut(0.5) is None


@pytest.mark.parametrize(
    ("arch", "patterns"),
    [
        ("llama", ["neurons"]),
        ("llama_tied", ["neurons", "groups"]),
        ("gemma3", ["layers"]),
        ("mixtral", ["experts"]),
        ("gpt2", ["neurons"]),
        ("qwen3", ["unstructured"]),
    ],
)
async def test_what_is_forecast_is_what_pruning_leaves(arch: str, patterns: list[str]) -> None:
    ctx: Mapping[str, Any] = await scored(arch)
    found = cutter(ctx["checkpoint"], *patterns).cut(0.4)
    assert found is not None
    links = [
        prune(pattern=pattern, sparsity=sparsity)
        for pattern, sparsity in zip(patterns, found.sparsities, strict=True)
    ]
    after = footprint((await run(Chain(*links), ctx))["checkpoint"])
    assert after.parameters == found.weight.parameters
    for measure in MEASURES:
        assert after.of(measure) == pytest.approx(found.weight.of(measure), rel=0.02)
    assert after.of("parameters") < footprint(ctx["checkpoint"]).of("parameters")


@pytest.mark.parametrize("measure", MEASURES)
def test_units_hit_a_target_with_the_first_size_at_or_below_it(measure: Any) -> None:
    checkpoint = tiny_checkpoint()
    dense = footprint(checkpoint)
    course = Course(dense, measure, 0.75)
    found = course.cut(cutter(checkpoint, "neurons"), 0.9)
    assert found is not None
    above = cut(checkpoint, "neurons", found.taken - 0.125)
    assert course.left(found.weight) <= 0.75 < course.left(above.weight)


def test_masks_hit_a_target_exactly() -> None:
    checkpoint = tiny_checkpoint()
    course = Course(footprint(checkpoint), "parameters", 0.75)
    found = course.cut(cutter(checkpoint, "unstructured"), 0.9)
    assert found is not None
    assert course.left(found.weight) == pytest.approx(0.75, abs=1e-4)


def test_a_share_that_does_not_overshoot_is_taken_whole() -> None:
    checkpoint = tiny_checkpoint()
    for target in (None, 0.2):
        course = Course(footprint(checkpoint), "parameters", target)
        found = course.cut(cutter(checkpoint, "unstructured"), 0.1)
        assert found is not None
        assert found.taken == 0.1


def test_zeros_that_are_there_count_as_taken() -> None:
    weight = Footprint(100, 40, 80, 400, 160)
    settings = [prune().settings]
    [sparsity] = Cutter(tiny_checkpoint(), weight, settings).cut(0.1).sparsities  # type: ignore[union-attr]
    assert sparsity == pytest.approx(0.55)
