from collections.abc import Callable
from typing import Any

import pytest
from tiny import tiny_checkpoint
from tiny_contexts import calibrated

from birdbone.links.healing import budget
from birdbone.links.healing.budget import Budget, affordable, asked_windows, decide
from birdbone.links.healing.settings import HealSettings
from birdbone.models.planning.timing import BlockTimes

TIMES = BlockTimes(block=0.01, head=0.02, gram=0.0, solve=0.0, product=0.0, token=0.0)


@pytest.fixture
def ctx() -> Any:
    """Four healing windows of 16 tokens."""
    return calibrated(tiny_checkpoint())


def never() -> int:
    raise AssertionError("nothing is to be sampled to decide")


def ticking(*seconds: float) -> Callable[[], float]:
    return iter(seconds).__next__


def test_tokens_are_those_of_calibrate_and_those_it_lacks(ctx: Any) -> None:
    assert asked_windows(ctx, HealSettings(tokens=100)) == 3
    assert asked_windows(ctx, HealSettings(tokens=10)) == 0
    assert asked_windows(ctx, HealSettings(time="1h")) is None
    assert decide(ctx, HealSettings(tokens=100), 1, never) == Budget(3)


@pytest.mark.parametrize("method", ["blocks", "full"])
def test_what_is_decided_fills_the_time(ctx: Any, method: Any) -> None:
    settings = HealSettings(method=method, time="1h")
    few = affordable(ctx, settings, 1, 10.0, 32.0, TIMES)
    many = affordable(ctx, settings, 1, 110.0, 32.0, TIMES)
    assert few.window_seconds == many.window_seconds
    assert few.window_seconds is not None
    # One window takes 16 tokens, with a tenth more sampled, and passes through three blocks.
    assert few.window_seconds > 1.1 * 16 / 32 + 3 * 0.01 * 6
    assert abs((many.windows - few.windows) * few.window_seconds - 100) <= few.window_seconds


def test_twice_the_epochs_leave_time_for_fewer_windows(ctx: Any) -> None:
    once, twice = (
        affordable(ctx, HealSettings(time="1h", epochs=epochs), 1, 100.0, 1e9, TIMES).windows
        for epochs in (1, 2)
    )
    assert 1.3 * twice < once < 2.1 * twice


def test_without_time_nothing_is_sampled(ctx: Any) -> None:
    assert affordable(ctx, HealSettings(time="1s"), 1, 0.5, 32.0, TIMES).windows == 0


def test_the_rate_is_measured_and_its_time_counts(
    ctx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "time_block", lambda checkpoint, length: TIMES)
    settings = HealSettings(time="100s")
    found = decide(ctx, settings, 1, lambda: 320, ticking(0.0, 10.0, 10.0))
    assert found.sampling_rate == 32.0
    assert found == affordable(ctx, settings, 1, 90.0, 32.0, TIMES)


def test_of_tokens_and_time_the_smaller_amount_counts(
    ctx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "time_block", lambda checkpoint, length: TIMES)
    long = HealSettings(time="100s", tokens=100)
    assert decide(ctx, long, 1, lambda: 320, ticking(0.0, 10.0, 10.0)).windows == 3
    short = HealSettings(time="12s", tokens=100_000)
    assert decide(ctx, short, 1, lambda: 320, ticking(0.0, 10.0, 10.0)).windows < 100
