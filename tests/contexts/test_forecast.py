"""Estimates add up: work is summed, peaks are not."""

from __future__ import annotations

from dataclasses import fields

import pytest

from birdbone.contexts.forecast import Expected, Forecast, Preflight, Speed

SPEED = Speed(*(float(10**place) for place in range(8)), window=512)


def expected(peak: int, process: int, seconds: float | None) -> Expected:
    return Expected("link", {}, seconds, peak, process)


def test_work_is_summed_and_memory_is_the_larger() -> None:
    first = Forecast(adds={"a": 1}, block_passes=2, memory_bytes=10, disk_bytes=3, notes=("n",))
    second = Forecast(adds={"b": 2}, block_passes=1, memory_bytes=7, disk_bytes=4, guessed=True)
    both = first.then(second)
    assert (both.block_passes, both.disk_bytes, both.memory_bytes) == (3, 7, 10)
    assert both.adds == {"a": 1, "b": 2}
    assert both.guessed
    assert first.then(first).notes == ("n",)


def test_every_kind_of_work_costs_time() -> None:
    work = {
        "block_passes": SPEED.block,
        "head_passes": SPEED.head,
        "gram_passes": SPEED.gram,
        "solves": SPEED.solve,
        "products": SPEED.product,
        "decoded_tokens": SPEED.token,
        "starts": SPEED.start,
        "moved_bytes": SPEED.byte,
        "seconds": 1.0,
    }
    for name, price in work.items():
        assert SPEED.seconds(Forecast(**{name: 2})) == pytest.approx(2 * price), name
    assert set(work) < {each.name for each in fields(Forecast)}


def test_a_run_peaks_with_its_largest_link_and_takes_the_time_of_all() -> None:
    links = (expected(10, 5, 1.0), expected(12, 0, 2.0))
    run = Preflight(links, SPEED, 100, 0.1)
    assert (run.peak_bytes, run.run_seconds) == (15, 3.0)
    unknown = Preflight((*links, expected(1, 0, None)), None, 100, 0.1)
    assert unknown.run_seconds is None


def test_work_becomes_seconds() -> None:
    speed = Speed(
        block=1.0,
        head=10.0,
        gram=0.1,
        solve=5.0,
        product=7.0,
        token=2.0,
        start=3.0,
        byte=0.5,
        window=16,
    )
    told = Forecast(
        block_passes=1,
        head_passes=1,
        gram_passes=1,
        solves=1,
        products=1,
        decoded_tokens=1,
        starts=1,
        moved_bytes=1,
        seconds=100,
    )
    assert speed.seconds(told) == pytest.approx(128.6)
    twice = told.then(told)
    assert speed.seconds(twice) == pytest.approx(2 * 128.6)


def test_one_after_the_other_needs_the_greater_memory_and_leaves_both_on_disk() -> None:
    first = Forecast(
        adds={"a": 1}, notes=("a",), process_bytes=5, disk_bytes=1, passing_disk_bytes=9
    )
    second = Forecast(adds={"b": 2}, notes=("b", "a"), guessed=True, process_bytes=7, disk_bytes=2)
    both = first.then(second)
    assert (both.process_bytes, both.disk_bytes, both.passing_disk_bytes) == (7, 3, 9)
    assert both.adds == {"a": 1, "b": 2}
    assert (both.notes, both.guessed) == (("a", "b"), True)
