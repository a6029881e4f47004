"""Parts never overlap, are never empty, and come out the same for the same seed."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdbone.errors import DataError, SettingError
from birdbone.texts.corpus import Corpus
from birdbone.texts.documents import normalised
from birdbone.texts.sources import read_corpus
from birdbone.texts.split import PARTS, shared_documents, split, split_to_fit

texts = st.text(alphabet="ab \n", max_size=12)
corpora = st.lists(texts, max_size=20).map(lambda documents: Corpus("drawn", tuple(documents)))
shares = st.tuples(*[st.floats(min_value=0.01, max_value=10)] * 3)
seeds = st.integers(min_value=0, max_value=2**32)


def distinct_texts(corpus: Corpus) -> set[str]:
    return {normalised(document) for document in corpus.documents} - {""}


@given(corpora, shares, seeds)
def test_parts_are_disjoint_nonempty_and_together_the_corpus(corpus, shares, seed) -> None:
    expected = distinct_texts(corpus)
    if len(expected) < 3:
        with pytest.raises(DataError, match="repeated passages are left out, too few"):
            split(corpus, shares=shares, seed=seed)
        return
    result = split(corpus, shares=shares, seed=seed)
    parts = [[normalised(document) for document in getattr(result, part)] for part in PARTS]
    assert all(parts)
    assert sorted(chain(*parts)) == sorted(expected)


def test_the_same_seed_gives_the_same_parts_and_another_seed_others() -> None:
    corpus = read_corpus("pydoc")
    assert split(corpus, seed=3) == split(corpus, seed=3)
    assert split(corpus, seed=3) != split(corpus, seed=4)


def test_shares_are_met_by_characters_and_relative_to_one_another() -> None:
    corpus = Corpus("even", tuple(f"{number:0100}" for number in range(100)))
    result = split(corpus, shares=(50, 30, 20))
    assert [len(getattr(result, part)) for part in PARTS] == [50, 30, 20]
    named = {"heldout": 0.2, "calibration": 0.5, "healing": 0.3}
    assert split(corpus, shares=named) == result


def test_sections_repeated_in_chapters_do_not_leak_into_the_heldout_part() -> None:
    # In CPython's topics 22 of 79 stand word for word in longer ones.
    result = split(read_corpus("pydoc"))
    assert shared_documents((*result.calibration, *result.healing), result.heldout) == ()


def test_too_little_text_says_how_much_there_is() -> None:
    corpus = Corpus("twins", ("same text", "same  text", "other!"))
    with pytest.raises(DataError, match=r"'twins' has 16 characters once repeated passages"):
        split(corpus)


def test_one_document_is_divided_so_that_every_part_has_some() -> None:
    text = " ".join(f"word{number}" for number in range(900))
    result = split(Corpus("one", (text,)))
    words = [document.split() for part in PARTS for document in getattr(result, part)]
    assert sorted(chain(*words)) == sorted(text.split())
    assert all(getattr(result, part) for part in PARTS)


class Words:
    """A tokenizer of one token a word."""

    eos_token_id = None

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> dict:
        return {"input_ids": [0] * len(text.split())}


@pytest.mark.parametrize(("words", "length"), [(2000, 100), (1000, 260)])
def test_parts_fill_a_window_each_if_the_text_is_enough(words: int, length: int) -> None:
    corpus = Corpus("one", (" ".join(f"word{number}" for number in range(words)),))
    result = split_to_fit(corpus, Words(), length=length, seed=0)
    for part in PARTS:
        assert sum(len(document.split()) for document in getattr(result, part)) >= length


def test_held_out_text_need_not_fill_a_window_where_it_is_from_elsewhere() -> None:
    corpus = Corpus("one", (" ".join(f"word{number}" for number in range(1000)),))
    with pytest.raises(DataError, match="or set length to 250 or less"):
        split_to_fit(corpus, Words(), length=350, seed=0)
    split_to_fit(corpus, Words(), length=350, seed=0, heldout=False)


def test_text_that_does_not_fill_its_parts_says_what_would() -> None:
    corpus = Corpus("one", (" ".join(f"word{number}" for number in range(1000)),))
    message = r"'one' has 1000 tokens; .* a window of 500 tokens each.* about 2000 .* length to 250"
    with pytest.raises(DataError, match=message):
        split_to_fit(corpus, Words(), length=500, seed=0)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((1, 1), "shares has 2 numbers; give three"),
        ({"calibration": 1, "test": 1}, r"shares name \['calibration', 'test'\]"),
        ((1, 0, 1), "share of healing is 0; give a finite number above 0"),
        ((1, 1, float("nan")), "share of heldout is nan"),
        ((float("inf"), 1, 1), "share of calibration is inf"),
    ],
)
def test_wrong_shares_are_refused(shares, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        split(Corpus("x", ("a", "b", "c")), shares=shares)


def test_a_document_in_both_texts_is_found_whatever_its_whitespace() -> None:
    assert shared_documents(["one two", "three"], ["four", "one\n two"]) == ("one\n two",)


def test_a_differently_divided_copy_is_found() -> None:
    lines = [f"line {number} of a text that is long enough to be its own" for number in range(6)]
    first = ["\n".join(lines[:3]), "\n".join(lines[3:])]
    copy, fresh = "\n".join(lines[2:4]), "\n".join(line.upper() for line in lines)
    assert shared_documents(first, [copy, fresh]) == (copy,)


def test_one_line_of_boilerplate_is_not_a_copy() -> None:
    licence = "licensed to you under the terms that the licence file states"
    mine, theirs = f"{licence}\n{'mine ' * 30}", f"{licence}\n{'theirs ' * 30}"
    assert shared_documents([mine], [theirs]) == ()
