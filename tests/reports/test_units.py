import pytest

from birdbone.reports.units import in_bytes, in_time


@pytest.mark.parametrize(
    ("count", "words"),
    [(999, "999 bytes"), (42_224, "42.2 kB"), (98.36e6, "98.4 MB"), (2.5e9, "2.5 GB")],
)
def test_sizes_are_decimal(count: float, words: str) -> None:
    assert in_bytes(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "–"),
        (0.0, "0.0 s"),
        (0.004, "< 0.1 s"),
        (2.04, "2.0 s"),
        (90, "1.5 min"),
        (5400, "1.5 h"),
    ],
)
def test_times_take_the_unit_that_fits(seconds: float | None, words: str) -> None:
    assert in_time(seconds) == words
