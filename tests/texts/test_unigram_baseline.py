"""The bar of chance, against counting by hand."""

import math

import pytest
import torch

from birdbone.texts import Windows, chance_perplexity


def windows(*rows: list[int]) -> Windows:
    return Windows(torch.tensor(rows), "drawn")


def test_frequencies_of_seen_text_with_one_added() -> None:
    seen = windows([0, 0, 0, 1], [0, 0, 1, 2])
    judged = windows([5, 0, 1, 0])
    total = 8 + 10
    expected = -(2 * math.log(6 / total) + math.log(3 / total)) / 3
    assert chance_perplexity(judged, [seen], 10) == pytest.approx(min(5.0, math.exp(expected)))


def test_several_seen_texts_count_together() -> None:
    seen = windows([0] * 50), windows([0] * 50)
    judged = windows([0, 0, 0])
    assert chance_perplexity(judged, seen, 10) == pytest.approx(110 / 101)


def test_nothing_seen_leaves_half_the_vocabulary() -> None:
    assert chance_perplexity(windows([0, 0, 0]), [], 100) == 50.0


def test_a_poor_guess_is_no_excuse() -> None:
    """Where the seen text misleads, the bar stays at half the vocabulary."""
    seen = windows([0] * 1000)
    assert chance_perplexity(windows([1, 2, 3]), [seen], 100) == 50.0
