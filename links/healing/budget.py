"""How many windows of sampled text heal trains on: by tokens, or by the time there is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from ...contexts.flow import Healable
from ...models.planning.timing import BlockTimes, time_block
from .duration import seconds_of
from .forecast import judging_work, training_work
from .settings import HealSettings, chosen

MARGIN = 1.1
"""Tokens sampled per token needed: some documents do not fill a last window."""


@dataclass(frozen=True)
class Budget:
    """The number of windows to sample, and the speed it was worked out from, if it was.

    Attributes:
        windows: beside those of the context.
        sampling_rate: tokens kept per second of sampling.
        window_seconds: to sample a window and to train on it.
    """

    windows: int
    sampling_rate: float | None = None
    window_seconds: float | None = None


def asked_windows(ctx: Healable, settings: HealSettings) -> int | None:
    """Return the windows that `tokens` asks for beside those of the context; None for no limit."""
    if settings.tokens is None:
        return None
    there = ctx["healing"]
    return max(0, math.ceil(settings.tokens / there.length) - there.num_windows)


def decide(
    ctx: Healable,
    settings: HealSettings,
    heldout: int,
    sample: Callable[[], int],
    clock: Callable[[], float] = time.monotonic,
) -> Budget:
    """Decide how many windows to sample.

    Args:
        sample: samples a first batch and returns the tokens it kept; called if there is a time.
    """
    asked = asked_windows(ctx, settings)
    if settings.time is None:
        return Budget(asked or 0)
    start = clock()
    rate = sample() / max(clock() - start, 1e-9)
    times = time_block(ctx["checkpoint"], ctx["healing"].length)
    left = seconds_of(settings.time) - (clock() - start)
    found = affordable(ctx, settings, heldout, left, rate, times)
    return found if asked is None else Budget(min(asked, found.windows), rate, found.window_seconds)


def affordable(
    ctx: Healable,
    settings: HealSettings,
    heldout: int,
    seconds: float,
    rate: float,
    times: BlockTimes,
) -> Budget:
    """The windows that can be sampled and trained on in so many seconds.

    Training on the windows of the context and judging come first.

    Args:
        rate: tokens sampled per second.
    """
    how, there, light = chosen(settings), ctx["healing"], ctx["checkpoint"]

    def training_seconds(num_windows: int) -> float:
        blocks, heads = training_work(settings.method, how, light, num_windows, heldout)
        return blocks * times.block + heads * times.head

    blocks, heads = judging_work(ctx, heldout)
    known = training_seconds(there.num_windows)
    fixed = known + blocks * times.block + heads * times.head
    one = training_seconds(there.num_windows + 1) - known + MARGIN * there.length / rate
    return Budget(max(0, math.floor((seconds - fixed) / one)), rate, one)
