"""What is refused before ranks begin, and who is named where one is gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tiny import tiny_windows

from birdbone.contexts import ranks
from birdbone.errors import ChainError, DataError, RankError


def of_two(monkeypatch: pytest.MonkeyPatch, *given: Any) -> None:
    """As if two ranks had exchanged these values."""
    monkeypatch.setattr(ranks, "exchanged", lambda value: list(given))
    monkeypatch.setattr(ranks, "size", lambda: 2)


def test_other_versions_on_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    of_two(monkeypatch, {"torch": "2.13"}, {"torch": "2.14"})
    with pytest.raises(ChainError, match=r"rank 1 differs from rank 0 in torch: 2\.14 instead of"):
        ranks.require_same({"torch": "2.13"})


def test_equal_values(monkeypatch: pytest.MonkeyPatch) -> None:
    of_two(monkeypatch, {"torch": "2.13"}, {"torch": "2.13"})
    ranks.require_same({"torch": "2.13"})


def test_other_settings_on_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = SimpleNamespace(running=lambda yes: None, fail=lambda reason: None)
    monkeypatch.setattr(ranks, "joined_group", lambda: SimpleNamespace(watch=watch))
    monkeypatch.setattr(ranks, "size", lambda: 2)

    def exchanged(value: Any) -> list[Any]:
        return [value, {**value, "quantize.bits (link 2)": "3"}]

    monkeypatch.setattr(ranks, "exchanged", exchanged)
    wanted = r"rank 1 differs from rank 0 in quantize\.bits \(link 2\): 3 instead of 4; start all"
    with (
        pytest.raises(ChainError, match=wanted),
        ranks.shared_run("1", ["load", {"quantize": {"bits": 4}}]),
    ):
        pass


def test_more_ranks_than_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "size", lambda: 3)
    ctx = {"calibration": tiny_windows(3), "heldout": tiny_windows(2)}
    ranks.check_windows(ctx, "calibration", "elsewhere")
    with pytest.raises(DataError, match="3 ranks cannot divide the windows of the heldout text, 2"):
        ranks.check_windows(ctx, "heldout")


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        (None, None),
        (RankError(1, "was stopped", True), None),
        (RankError(1, "is gone"), "link 'save' failed: rank 1 is gone"),
    ],
)
def test_who_is_gone_after_a_signal(
    lost: RankError | None, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = SimpleNamespace(link="save", lost=None)
    watch.await_silence = lambda: setattr(watch, "lost", lost)
    monkeypatch.setattr(ranks, "joined_group", lambda: SimpleNamespace(watch=watch))
    assert ranks.lost_rank(terminated=False) is None
    assert ranks.lost_rank(terminated=True) == named
