import random

import pytest

from birdbone.models.sampling.filters import Sieve, distinct_fraction, likelihood_band
from birdbone.models.sampling.generate import Sampled


def _random(seed: int, count: int = 40, nll: float = 2.0) -> Sampled:
    draw = random.Random(seed)
    return Sampled(tuple(draw.randrange(1000) for _ in range(count)), 0, nll)


def test_different_documents_are_kept_in_their_order() -> None:
    batch = [_random(seed, nll=2 + seed / 100) for seed in range(8)]
    assert Sieve().keep(batch) == batch


def test_distinct_fraction_counts_n_grams() -> None:
    assert distinct_fraction([1, 2, 3, 1, 2, 3], 3) == pytest.approx(3 / 4)
    assert distinct_fraction([1, 2], 3) == 1.0


@pytest.mark.parametrize(
    "bad",
    [
        Sampled((1, 2, 3), 0, 2.0),
        Sampled((4, 5, 6, 7, 8) * 8, 0, 2.0),
        _random(9, nll=9.0),
        _random(9, nll=0.01),
        Sampled(_random(0).tokens[:30] + _random(9).tokens[:10], 0, 2.0),
    ],
    ids=["short", "repetitive", "unlikely", "too likely", "near-duplicate"],
)
def test_what_calibrates_badly_is_left_out(bad: Sampled) -> None:
    good = [_random(seed, nll=2 + seed / 100) for seed in range(8)]
    assert Sieve().keep([*good, bad]) == good


def test_near_duplicates_of_earlier_batches_are_left_out() -> None:
    sieve = Sieve()
    assert sieve.keep([_random(0), _random(1)]) == [_random(0), _random(1)]
    assert sieve.keep([_random(0), _random(2)]) == [_random(2)]


def test_what_the_template_put_in_front_is_no_duplicate() -> None:
    given = tuple(range(2000, 2060))
    batch = [Sampled(given + _random(seed).tokens, len(given), 2.0) for seed in range(4)]
    assert Sieve().keep(batch) == batch


def test_the_band_is_robust() -> None:
    values = [2.0, 2.1, 2.2, 2.3, 50.0]
    least, most = likelihood_band([_random(0, nll=value) for value in values])
    assert (least, most) == pytest.approx((2.2 - 3 * 1.4826 * 0.1, 2.2 + 3 * 1.4826 * 0.1))
