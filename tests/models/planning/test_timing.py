"""Times of a block by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny import tiny_checkpoint

from birdbone.models.planning.timing import BlockTimes, Moment, now, time_block

LENGTH = 16


class Clock:
    """Each reading is ``step`` seconds after the one before; another program takes ``other``."""

    def __init__(self, step: float, *, other: float = 0.0, own: float = 1.0) -> None:
        self.step, self.other, self.own, self.readings = step, other, own, 0

    def __call__(self) -> Moment:
        self.readings += 1
        wall = self.readings * self.step
        return Moment(wall, self.own * wall, (self.own + self.other) * wall)


@pytest.fixture
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_each_operation_has_its_own_time() -> None:
    """Every operation takes one reading: the sums of a block are the block's own time here."""
    found = time_block(tiny_checkpoint(), LENGTH, clock=Clock(2.0))
    assert found == BlockTimes(
        block=2.0, head=2.0, gram=0.0, solve=2.0, product=2.0, token=3 * 2.0 + 2.0, taken=0.0
    )


def test_a_head_timed_on_fewer_tokens_is_scaled_to_the_window() -> None:
    checkpoint = tiny_checkpoint(max_position_embeddings=256)
    assert time_block(checkpoint, 128, clock=Clock(2.0)).head == 2 * 2.0


def test_short_work_is_repeated_and_long_work_is_not() -> None:
    long, short = Clock(2.0), Clock(0.01)
    time_block(tiny_checkpoint(), LENGTH, clock=long)
    time_block(tiny_checkpoint(), LENGTH, clock=short)
    # Eight operations of two readings each, and two readings of the machine.
    assert long.readings == 8 * 2 + 2
    assert short.readings == 8 * 2 * 3 + 2


@pytest.mark.usefixtures("one_thread")
def test_on_a_busy_machine_the_time_of_this_process_counts() -> None:
    calm = time_block(tiny_checkpoint(), LENGTH, clock=Clock(2.0, other=0.2, own=0.5))
    busy = time_block(tiny_checkpoint(), LENGTH, clock=Clock(2.0, other=0.5, own=0.5))
    assert (calm.block, busy.block) == (2.0, 1.0)
    assert calm.taken == pytest.approx(0.2)
    assert busy.taken == pytest.approx(0.5)


def test_the_clocks_of_this_machine_run_forwards() -> None:
    first, second = now(), now()
    assert second.wall >= first.wall
    assert second.own >= first.own
    assert second.all >= first.all
