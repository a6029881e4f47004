"""Cuts in sizes a model can have: what is forecast is what pruning then leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tiny import tiny_checkpoint
from tiny_contexts import scored

from birdbone.checkpoints import Checkpoint
from birdbone.engine import Chain, run
from birdbone.errors import SettingError
from birdbone.links import prune
from birdbone.links.wave.course import Course
from birdbone.links.wave.cuts import Cut, Cutter
from birdbone.models.evaluation.footprint import MEASURES, Footprint, footprint


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
@pytest.mark.parametrize("target", [0.78, 0.75, 0.7])
def test_units_hit_a_target_with_the_size_nearest_to_it(measure: Any, target: float) -> None:
    checkpoint = tiny_checkpoint()
    dense = footprint(checkpoint)
    course = Course(dense, measure, target)
    found = course.cut(cutter(checkpoint, "neurons"), 0.9)
    assert found is not None
    every = [cut(checkpoint, "neurons", gone / 64) for gone in range(8, 64, 8)]
    off = [abs(each.weight.of(measure) / dense.of(measure) - target) for each in every]
    assert found == every[off.index(min(off))]
    assert course.reached(Cutter(checkpoint, found.weight, [prune(pattern="neurons").settings]))


def test_a_wave_takes_no_more_than_its_share_though_the_target_is_nearer_to_more() -> None:
    checkpoint = tiny_checkpoint()
    course = Course(footprint(checkpoint), "bytes", 0.6)
    found = course.cut(cutter(checkpoint, "neurons"), 0.25)
    assert found == cut(checkpoint, "neurons", 0.25)


def test_a_model_nearer_to_the_target_than_its_next_size_is_at_it() -> None:
    checkpoint = tiny_checkpoint()
    one_down = cut(checkpoint, "neurons", 0.125).weight
    dense = footprint(checkpoint)
    step = 1 - one_down.of("bytes") / dense.of("bytes")
    for part, reached in ((0.4, True), (0.6, False)):
        course = Course(dense, "bytes", 1 - part * step)
        whole = cutter(checkpoint, "neurons")
        assert course.reached(whole) == reached
        assert (course.cut(whole, 0.5) is None) == reached
        if reached:
            nearest = f"set target to {1 - step:.3f}"
            with pytest.raises(SettingError, match=rf"nearer to the model as it is.*{nearest}"):
                course.require_reachable(whole)
        else:
            course.require_reachable(whole)


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
