"""Scores stand for merges, or are refused."""

from __future__ import annotations

import pytest

from birdbone.errors import ModelError
from birdbone.formats.sentencepiece_scores import scores_of


def model(*merges: str) -> dict[str, object]:
    pieces = [*"abc", *(merge.replace(" ", "") for merge in merges)]
    return {"merges": list(merges), "vocab": {piece: place for place, piece in enumerate(pieces)}}


def test_what_is_made_earlier_scores_higher() -> None:
    scores = scores_of(model("b c", "a bc"), ["<s>", "a", "bc", "abc"], "tiny")
    assert scores[2] > scores[3] > scores[1] == scores[0]


def test_pairs_that_make_one_token_share_its_score() -> None:
    found = scores_of(model("a b", "b c", "ab c", "a bc"), ["ab", "bc", "abc"], "tiny")
    assert found == [0.0, -1.0, -2.0]


def test_a_token_made_early_and_late_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'tiny' has merges .*form 'abc' are not adjacent"):
        scores_of(model("a b", "ab c", "b c", "a bc"), ["a"], "tiny")


def test_a_pair_that_sentencepiece_would_join_and_the_list_does_not_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'a' and 'bc' are never merged"):
        scores_of(model("a b", "b c", "ab c"), ["a"], "tiny")
