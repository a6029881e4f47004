"""The cost of healing, counted in passes of one window through one block."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import tiny_checkpoint, tiny_windows
from tiny_contexts import calibrated

from birdbone.contexts.forecast import Forecast
from birdbone.links.healing.forecast import heal_forecast, judging_work, training_work
from birdbone.links.healing.settings import Chosen, HealSettings

BLOCKS = 3
METHODS: list[Any] = ["blocks", "full", "lora", "qlora"]


@pytest.fixture(scope="module")
def ctx() -> Any:
    """Ten healing windows of 16 tokens, one of which is held out."""
    return {**calibrated(tiny_checkpoint()), "healing": tiny_windows(10, 16, seed=1)}


def told(ctx: Any, **settings: Any) -> Forecast:
    return heal_forecast(ctx, HealSettings(**settings))


@pytest.mark.parametrize("method", METHODS)
def test_epochs_multiply_training(method: Any) -> None:
    """One forward and two backward passes of 9 windows and a forward of the one held out."""
    light = tiny_checkpoint()
    once, twice, thrice = (
        training_work(method, Chosen(1e-3, epochs=epochs), light, 10, 1)[0] for epochs in (1, 2, 3)
    )
    learning = 3 * 9 + 1
    again = 2 if method == "blocks" else 0  # blocks 1 and 2 at another rate
    assert twice - once == thrice - twice == (BLOCKS + again) * learning


def test_only_whole_models_reach_the_logits() -> None:
    light = tiny_checkpoint()
    assert training_work("blocks", Chosen(1e-3), light, 10, 1)[1] == 0
    assert training_work("full", Chosen(1e-3, epochs=2), light, 10, 1)[1] == 2 * 28 + 10


def test_judging_reads_every_text(ctx: Any) -> None:
    """Before, after and the original: three passes of each window that decides."""
    assert judging_work(ctx, 2) == (3 * 2 * BLOCKS, 4 * 2)
    more = {**ctx, "elsewhere": tiny_windows(5, seed=8)}
    assert judging_work(more, 2) == (3 * 7 * BLOCKS, 4 * 7)


def test_a_larger_text(ctx: Any) -> None:
    """Tokens that calibrate lacks are sampled; those it has are not."""
    enough, lacking = told(ctx, tokens=160), told(ctx, tokens=161)
    assert enough.decoded_tokens == 0
    assert lacking.decoded_tokens > 0
    assert enough.block_passes == told(ctx).block_passes < lacking.block_passes


def test_time_stands_for_all_work(ctx: Any) -> None:
    found = told(ctx, time="90s")
    assert (found.seconds, found.block_passes, found.head_passes) == (90.0, 0.0, 0.0)
    assert told(ctx).seconds == 0.0


def test_what_is_added_has_the_same_shapes(ctx: Any) -> None:
    light = told(ctx).adds["checkpoint"]
    dense = ctx["checkpoint"]
    assert {n: r.shape for n, r in light.refs.items()} == {
        n: r.shape for n, r in dense.refs.items()
    }
    assert light.num_bytes == dense.num_bytes


@pytest.mark.parametrize("method", METHODS)
def test_memory(method: Any, ctx: Any) -> None:
    """Training takes more than the weights of what is trained; more windows at once take more."""
    small = told(ctx, method=method)
    key = "batch_size" if method == "blocks" else "micro_batch_size"
    large = told(ctx, method=method, **{key: 8})
    assert 0 < small.memory_bytes < large.memory_bytes


def test_adapters_need_less_than_all_weights(ctx: Any) -> None:
    wide: Any = calibrated(tiny_checkpoint(hidden_size=256, intermediate_size=1024))
    full, lora = (told(wide, method=method).memory_bytes for method in ("full", "lora"))
    assert lora < full


def test_a_teacher_takes_memory(ctx: Any) -> None:
    with_teacher, alone = (told(ctx, method="full", kl_weight=w).memory_bytes for w in (1.0, 0.0))
    assert alone < with_teacher
