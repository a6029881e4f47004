"""Several texts: no text twice, windows in proportion to weights, evenly spread."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdbone.errors import DataError
from birdbone.texts.corpus import Corpus
from birdbone.texts.mixture import (
    Weighted,
    apportion,
    distinct_across,
    mixed_windows,
    mixture_name,
)


class Letters:
    """A tokenizer of one token a character."""

    eos_token_id = None

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> dict:
        return {"input_ids": [ord(letter) for letter in text]}


def source(name: str, windows: int, weight: float = 1.0) -> Weighted:
    """A text of its name's letter alone, so that a window says where it is from."""
    return Weighted(Corpus(name, (name * (8 * windows),)), weight)


def mixed(*sources: Weighted, limit: int, seed: int = 0) -> str:
    """The source of every window."""
    found = mixed_windows(sources, Letters(), length=8, limit=limit, text="part", seed=seed)
    assert all(len(set(row.tolist())) == 1 for row in found.tokens)
    return "".join(chr(int(row[0])) for row in found.tokens)


def test_windows_are_in_proportion_to_weights_from_the_front_on() -> None:
    order = mixed(source("a", 50, 2.0), source("b", 50, 1.0), limit=30)
    assert (order.count("a"), order.count("b")) == (20, 10)
    assert all(abs(order[:n].count("a") - 2 * n / 3) <= 1 for n in range(1, 31))


def test_where_a_source_is_too_short_the_others_make_up_for_it() -> None:
    with pytest.warns(UserWarning, match=r"'b', part: only 3 of the 10 windows.* weight 1"):
        order = mixed(source("a", 50), source("b", 3), limit=20)
    assert (order.count("a"), order.count("b")) == (17, 3)


def test_all_there_is_where_more_is_asked_for() -> None:
    with pytest.warns(UserWarning, match="windows that its weight"):
        assert sorted(mixed(source("a", 3), source("b", 2), limit=99)) == list("aaabb")


def test_the_same_seed_gives_the_same_windows_and_one_source_is_left_in_order() -> None:
    text = "".join(chr(100 + number) * 8 for number in range(60))
    alone = [Weighted(Corpus("x", (text,)))]
    settings = {"length": 8, "limit": 20, "text": "part"}
    first, again, other = (
        mixed_windows(alone, Letters(), seed=seed, **settings) for seed in (0, 0, 1)
    )
    assert first.digest == again.digest != other.digest
    assert all(a < b for a, b in pairwise(first.tokens[:, 0].tolist()))
    assert first.text == "x, part"


@given(
    st.integers(0, 60),
    st.lists(
        st.tuples(st.floats(min_value=0.1, max_value=10), st.integers(0, 40)),
        min_size=1,
        max_size=5,
    ),
)
def test_apportioned_numbers_sum_up_and_are_in_proportion(total, sources) -> None:
    weights, available = zip(*sources, strict=True)
    counts = apportion(total, weights, available)
    assert sum(counts) == min(total, sum(available))
    assert all(0 <= count <= most for count, most in zip(counts, available, strict=True))
    free = [place for place, most in enumerate(available) if counts[place] < most]
    for got in (place for place, count in enumerate(counts) if count):
        for open_place in free:  # nobody got one that would have brought another nearer
            last = (counts[got] - 0.5) / weights[got]
            assert last <= (counts[open_place] + 0.5) / weights[open_place] + 1e-9


def test_a_document_of_two_sources_is_kept_in_the_first() -> None:
    line = "a line that is long enough to be told from a table rule, number {}"
    texts = [line.format(number) for number in range(4)]
    found = distinct_across(
        [Weighted(Corpus("a", tuple(texts[:3])), 2.0), Weighted(Corpus("b", tuple(texts[1:])))]
    )
    assert [each.corpus.documents for each in found] == [tuple(texts[:3]), (texts[3],)]
    assert [each.weight for each in found] == [2.0, 1.0]


def test_a_source_that_adds_nothing_is_refused() -> None:
    twins = [Weighted(Corpus(name, ("the same text",))) for name in ("a", "b")]
    with pytest.raises(DataError, match="'b' holds nothing that the other sources do not hold too"):
        distinct_across(twins)


def test_a_mixture_is_named_by_its_sources_and_weights_that_differ() -> None:
    assert mixture_name([source("a", 1), source("b", 1)]) == "a + b"
    assert mixture_name([source("a", 1, 2.5), source("b", 1)]) == "a (2.5) + b (1)"
