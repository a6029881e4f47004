"""What counts as only repeating oneself."""

import pytest

from birdbone.models.evaluation.scoring import repeats, share_repeating

SPOKEN = [5, 9, 2, 9, 4, 7, 1, 3, 9, 2, 8, 6, 5, 11, 12, 9]


@pytest.mark.parametrize("unit", [[7], [7, 8], [7, 8, 9], [7, 8, 9, 10]])
def test_a_short_round_repeats(unit: list[int]) -> None:
    assert repeats((unit * 12)[:24])
    assert repeats([3, 1, *(unit * 24)][:24])


@pytest.mark.parametrize("tokens", [SPOKEN, [7, 8, 9, 10, 11] * 4, [1], [], [1, 2]])
def test_speech_and_scraps_do_not(tokens: list[int]) -> None:
    assert not repeats(tokens)


def test_share_of_texts() -> None:
    assert share_repeating([[7] * 16, SPOKEN]) == 0.5
    assert share_repeating([]) == 0.0
