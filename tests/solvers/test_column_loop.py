"""The walk over columns: each is settled once, in order, with all that came before applied."""

from __future__ import annotations

import pytest

from birdbone.solvers.column_loop import process_spans


class Ledger:
    """Which earlier columns' changes every column has been given, and when."""

    def __init__(self, width: int) -> None:
        self.given: list[list[int]] = [[] for _ in range(width)]
        self.settled: list[int] = []

    def settle_columns(self, start: int, stop: int) -> None:
        for index in range(start, stop):
            # What its own span changed it is to see to itself.
            assert self.given[index] == list(range(start))
            self.settled.append(index)

    def pass_on(self, first: int, last: int, stop: int) -> None:
        assert self.settled[-1] == last - 1
        for index in range(last, stop):
            self.given[index].extend(range(first, last))


@pytest.mark.parametrize("width", [1, 7, 8, 9, 64, 70])
@pytest.mark.parametrize("sizes", [(), (8,), (32, 8), (16, 4, 2), (1,)])
def test_every_change_reaches_every_later_column_once_and_in_time(width, sizes) -> None:
    ledger = Ledger(width)
    process_spans(ledger, 0, width, sizes)
    assert ledger.settled == list(range(width))


def test_nothing_outside_the_span_is_touched() -> None:
    ledger = Ledger(20)
    ledger.given[:4] = [[] for _ in range(4)]
    for index in range(4, 20):
        ledger.given[index] = list(range(4))
    process_spans(ledger, 4, 12, (4, 2))
    assert ledger.settled == list(range(4, 12))
    assert ledger.given[12:] == [list(range(4))] * 8
