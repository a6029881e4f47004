"""Which rank is lost, and why: two views of one store, on a clock of the test's."""

from __future__ import annotations

import pytest
from torch.distributed import HashStore

from birdbone.checkpoints import rank_watch
from birdbone.checkpoints.rank_watch import Watch, timeout_seconds
from birdbone.errors import RankError, SettingError


class Clock:
    """Seconds that pass when the test says so, or with every question by ``step``."""

    def __init__(self) -> None:
        self.now, self.step = 0.0, 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rank_watch.time, "monotonic", clock)
    monkeypatch.setattr(rank_watch.time, "sleep", lambda seconds: None)
    return clock


@pytest.fixture
def pair(clock: Clock) -> tuple[Watch, Watch]:
    store = HashStore()
    views = Watch(store, 0, 2), Watch(store, 1, 2)
    for each in views:
        each.post()
    for each in views:
        each.beat()
    return views


def test_ranks_that_live(pair: tuple[Watch, Watch], clock: Clock) -> None:
    for _ in range(40):
        clock.now += 1.0
        pair[0].beat()
        pair[1].beat()
    pair[0].check()
    pair[1].check()


def test_a_rank_that_fails_says_why(pair: tuple[Watch, Watch], clock: Clock) -> None:
    clock.step = 1.0
    pair[1].fail("no memory")
    pair[0].beat()
    with pytest.raises(RankError, match=r"^rank 1 failed: no memory$"):
        pair[0].check()
    assert not pair[1].speaks
    assert pair[0].speaks


def test_the_first_reason_is_handed_on(pair: tuple[Watch, Watch], clock: Clock) -> None:
    clock.step = 1.0
    pair[1].fail("no memory")
    pair[0].beat()
    pair[0].fail("whatever")
    assert pair[0].lost is not None
    assert pair[0].lost.parts == (1, "no memory", True)


def test_a_silent_rank(pair: tuple[Watch, Watch], clock: Clock) -> None:
    pair[0].beat()
    clock.now += 19.0
    pair[0].beat()
    pair[0].check()
    clock.now += 2.0
    pair[0].beat()
    with pytest.raises(RankError, match=r"^rank 1 gave no sign of life"):
        pair[0].check()


def test_the_next_rank_speaks_for_a_silent_one(pair: tuple[Watch, Watch], clock: Clock) -> None:
    clock.step = 1.0
    assert not pair[1].speaks
    found = pair[1].culprit(RuntimeError("connection closed"))
    assert found.rank == 0
    assert pair[1].speaks


def test_a_rank_that_ended_early_is_missed_where_it_is_needed(pair: tuple[Watch, Watch]) -> None:
    pair[1].leave()
    pair[0].beat()
    assert pair[0].lost is None
    with pytest.raises(RankError, match=r"^rank 1 ended before the others$"):
        pair[0].check()


def test_a_rank_that_never_starts(clock: Clock) -> None:
    clock.step = 1.0
    with pytest.raises(RankError, match=r"^rank 1 did not start within 5 s$"):
        Watch(HashStore(), 0, 2).start(5)


@pytest.mark.parametrize("text", ["soon", "5", "inf"])
def test_a_timeout_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rank_watch.TIMEOUT, text)
    with pytest.raises(SettingError, match=f"BIRDBONE_RANK_TIMEOUT='{text}' is no number"):
        timeout_seconds()


def test_thirty_seconds_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(rank_watch.TIMEOUT, raising=False)
    assert timeout_seconds() == 30.0
