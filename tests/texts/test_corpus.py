"""A corpus is known by its documents; a sample of them is whole documents in their order."""

from hypothesis import given
from hypothesis import strategies as st

from birdbone.texts.corpus import Corpus, sample_documents


def test_the_digest_depends_on_where_documents_end_and_not_on_the_name() -> None:
    assert Corpus("x", ("ab", "c")).digest == Corpus("y", ("ab", "c")).digest
    assert Corpus("x", ("ab", "c")).digest != Corpus("x", ("a", "bc")).digest


@given(st.lists(st.text(min_size=1, max_size=20), max_size=20, unique=True), st.integers(0, 100))
def test_a_sample_is_enough_and_no_more_documents_than_it_takes(documents, characters) -> None:
    sample = sample_documents(documents, characters, 0)
    assert [each for each in documents if each in sample] == list(sample)
    held = sum(map(len, sample))
    assert held >= min(characters, sum(map(len, documents)))
    assert held < characters + max(map(len, documents), default=1)


def test_the_seed_decides_the_sample() -> None:
    documents = [f"document {number}" for number in range(50)]
    assert sample_documents(documents, 60, 0) == sample_documents(documents, 60, 0)
    assert sample_documents(documents, 60, 0) != sample_documents(documents, 60, 1)
