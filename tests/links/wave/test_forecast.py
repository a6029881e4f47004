"""The cost of waves in outline: as many as lead to the target, each on what the last one left."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import tiny_checkpoint, tiny_windows
from tiny_contexts import calibrated

from birdbone.contexts.forecast import Forecast
from birdbone.engine import Chain, run_sync
from birdbone.links import heal, profile, prune, score, validate, waves
from birdbone.links.wave.forecast import waves_forecast


@pytest.fixture(scope="module")
def ctx() -> Any:
    """A scored model with 64 neurons in each of 2 blocks."""
    return run_sync(
        Chain(profile(), score()), calibrated(tiny_checkpoint(num_hidden_layers=2), num=4)
    )


def told(ctx: Any, *links: Any, **settings: Any) -> Forecast:
    body = Chain(*(links or (prune(pattern="neurons", multiple=8),)), validate())
    return waves_forecast(ctx, waves(body=body, **settings).settings)


def count(found: Forecast) -> int:
    return int(found.notes[0].split()[0])


def test_one_wave(ctx: Any) -> None:
    found = told(ctx, target=0.95, step=0.5)
    assert found.notes[0] == "1 wave to the target, if each is kept"
    assert found.guessed


def test_a_lower_target_takes_more_waves(ctx: Any) -> None:
    """Neurons go eight at a time, and so many of 64 hold 41 % of the parameters."""
    found = [told(ctx, target=target, step=0.13) for target in (0.9, 0.8, 0.7)]
    counts = [count(each) for each in found]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    passes = [each.block_passes for each in found]
    assert passes == sorted(passes)
    assert passes[0] < passes[-1]


def test_waves_beyond_the_outline_cost_as_much_as_the_last(ctx: Any) -> None:
    three, four, five = (told(ctx, step=0.13, max_waves=most) for most in (3, 4, 5))
    assert four.block_passes - three.block_passes == five.block_passes - four.block_passes > 0


def test_without_a_target_all_are_counted(ctx: Any) -> None:
    assert told(ctx, max_waves=7).notes[0] == (
        "at most 7 waves; they end when stop_loss is exceeded, which cannot be forecast"
    )


def test_no_more_than_allowed(ctx: Any) -> None:
    assert count(told(ctx, target=0.6, step=0.02, max_waves=4)) == 4


def test_the_model_is_left_at_its_target(ctx: Any) -> None:
    light = told(ctx, target=0.8, step=0.3).adds["checkpoint"]
    dense = ctx["dense"]
    assert light.config["intermediate_size"] < dense.config["intermediate_size"]
    assert light.num_parameters / dense.num_parameters == pytest.approx(0.8, abs=0.04)


def test_a_mask_leaves_shapes_alone(ctx: Any) -> None:
    found = told(ctx, prune(method="magnitude"), target=0.8)
    assert found.adds["checkpoint"].num_parameters == ctx["dense"].num_parameters


def test_healing_is_work_of_each_wave(ctx: Any) -> None:
    prunes = prune(pattern="neurons", multiple=8)
    plain, healed, longer = (
        told(ctx, *links, target=0.8, step=0.3)
        for links in ((prunes,), (prunes, heal(epochs=1)), (prunes, heal(epochs=3)))
    )
    assert plain.block_passes < healed.block_passes < longer.block_passes


def test_a_model_at_its_target(ctx: Any) -> None:
    """It is only evaluated."""
    reached = told({**ctx, "dense": tiny_checkpoint(num_hidden_layers=3)}, target=0.9)
    assert count(reached) == 0
    assert reached.block_passes < told(ctx, target=0.9).block_passes
    assert "checkpoint" not in reached.adds


def test_longer_text_takes_more(ctx: Any) -> None:
    more = {**ctx, "heldout": tiny_windows(40)}
    short, long = (told(each, target=0.9) for each in (ctx, more))
    assert long.block_passes > short.block_passes
    assert long.memory_bytes >= short.memory_bytes > 0
