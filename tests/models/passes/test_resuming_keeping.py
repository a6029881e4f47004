from collections.abc import Mapping
from typing import Any

import pytest
from torch import Tensor

from birdbone.models.passes import resuming as keeping
from birdbone.models.passes.resuming import Keeping


class _Clock:
    """A place where each saving takes some seconds by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, self.seconds, self.saved_at = 0.0, seconds, list[float]()
        monkeypatch.setattr(keeping.time, "monotonic", lambda: self.now)

    def load(self) -> None:
        return None

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.saved_at.append(self.now)
        self.now += self.seconds


def test_saving_takes_a_twentieth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch, seconds=2.0)
    keeping = Keeping(clock)
    for _ in range(100):
        clock.now += 1.0
        keeping.save(lambda: ({}, {}))
    assert clock.saved_at == [1.0, 43.0, 85.0]


def test_without_a_place_nothing_is_made() -> None:
    keeping = Keeping()
    assert keeping.load() is None
    keeping.save(lambda: pytest.fail("made for nobody"))
