"""A corpus is known by its documents; a sample of them is whole documents in their order."""

from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from birdbone.texts.conversations import from_messages
from birdbone.texts.corpus import Corpus, RawText, sample_documents


def test_the_digest_depends_on_where_documents_end_and_not_on_the_name() -> None:
    assert RawText("x", ("ab", "c")).digest == RawText("y", ("ab", "c")).digest
    assert RawText("x", ("ab", "c")).digest != RawText("x", ("a", "bc")).digest


def test_a_conversation_is_not_the_text_that_it_is_stored_as() -> None:
    talk = from_messages([{"role": "user", "content": "Why?"}], "line 1")
    assert RawText("x", (talk,)).digest != RawText("x", (talk.messages,)).digest
    elsewhere = from_messages([{"role": "user", "content": "Why?"}], "line 2")
    assert RawText("x", (talk,)).digest == RawText("x", (elsewhere,)).digest


def test_conversations_are_rendered_among_texts_and_blank_ones_left_out() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    talks = [from_messages([{"role": "user", "content": text}], "") for text in ("Why?", " ")]
    raw = RawText("x", ("text", *talks))
    assert raw.rendered(tokenizer) == Corpus("x", ("text", "Why?"))


def test_duplicates_and_scripts_are_of_what_is_said() -> None:
    talk = from_messages([{"role": "user", "content": "Почему?"}], "")
    raw = RawText("x", ("Потому", "Потому", talk))
    assert (raw.num_duplicates, dict(raw.scripts)) == (1, {"Cyrillic": 1.0})


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
