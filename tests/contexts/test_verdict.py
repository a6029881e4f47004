"""A verdict on two texts: the worse of the two decides."""

import math

import pytest

from birdbone.contexts.verdict import Judgement, Perplexity, Verdict


def judgement(rise: float, error: float = 0.0) -> Judgement:
    dense, light = Perplexity(20.0, 1.0, 60), Perplexity(20.0 * (1 + rise), 1.0, 60)
    return Judgement(dense, light, rise, error, 0.1, 0.9, "words", 16, 4, "float32", "digest")


def verdict(heldout: Judgement, elsewhere: Judgement | None = None) -> Verdict:
    return Verdict(heldout, elsewhere, "id")


def test_the_worse_text_decides_whichever_it_is() -> None:
    small, great = judgement(0.01), judgement(0.2, 0.03)
    for found in (verdict(small, great), verdict(great, small)):
        assert found.worse is great
        assert (found.rise, found.rise_error) == (0.2, 0.03)
        assert not found.holds(0.1)
        assert found.holds(0.14)
    assert verdict(small).worse is small
    assert list(verdict(small).texts) == ["heldout"]
    assert list(verdict(small, great).texts) == ["heldout", "elsewhere"]


def test_a_smaller_rise_that_is_certain_breaks_a_bound_that_a_greater_one_may_hold() -> None:
    certain, noisy = judgement(0.1, 0.001), judgement(0.2, 0.1)
    found = verdict(certain, noisy)
    assert found.worse is noisy
    assert found.broken(0.05) is certain
    assert found.broken(0.15) is None


@pytest.mark.parametrize("place", [0, 1])
def test_a_nan_is_the_worst_and_never_holds(place: int) -> None:
    pair = [judgement(5.0), judgement(5.0)]
    pair[place] = judgement(math.nan)
    found = verdict(*pair)
    assert found.worse is pair[place]
    assert not found.holds(100.0)
    assert found.remark is None


def test_rises_that_differ_much_are_remarked_on() -> None:
    assert verdict(judgement(0.1)).remark is None
    assert verdict(judgement(0.1), judgement(0.2)).remark is None
    narrow = verdict(judgement(0.1, 0.01), judgement(0.9, 0.1)).remark
    assert narrow is not None
    assert narrow.startswith("calibration text is narrow: perplexity rose by 10.00% on held-out")
