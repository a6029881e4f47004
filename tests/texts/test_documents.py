"""What counts as the same text, and where one long text is divided."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdbone.texts.documents import PARAGRAPH_GOAL, distinct, divide, is_heading

LONG = "this line is long enough to be told from a table rule, number {}"


@pytest.mark.parametrize("line", [" = Ward Churchill = \n", "= A =", " = A = B = \n"])
def test_article_headings_are_seen(line: str) -> None:
    assert is_heading(line)


@pytest.mark.parametrize(
    "line", [" = = Career = = \n", "x = 1", "= = = Deep = = =", "= = A =", "== A ==", ""]
)
def test_section_headings_and_equations_are_not_articles(line: str) -> None:
    assert not is_heading(line)


def test_articles_open_at_their_headings_and_nothing_is_lost() -> None:
    text = "preface\n = A = \none\n = = S = = \ntwo\n = B = \nthree\n = C = \nfour\n"
    documents = divide(text)
    assert [document.splitlines()[0].strip() for document in documents] == [
        "preface",
        "= A =",
        "= B =",
        "= C =",
    ]
    assert "".join(documents) == text


def test_two_headings_are_too_few_to_be_articles() -> None:
    assert divide(" = A = \none\n\n = B = \ntwo\n") == (" = A = \none\n\n = B = \ntwo\n",)


def test_paragraphs_are_gathered_to_the_goal() -> None:
    paragraphs = [str(digit) * (PARAGRAPH_GOAL // 2) for digit in range(5)]
    documents = divide("\n\n".join(paragraphs))
    assert documents == (
        "\n\n".join(paragraphs[:2]),
        "\n\n".join(paragraphs[2:4]),
        paragraphs[4],
    )


@given(st.text(alphabet="ab \n=", max_size=400))
def test_division_keeps_every_word_in_order(text: str) -> None:
    assert " ".join(divide(text)).split() == text.split()


def test_the_same_text_is_kept_once_whatever_its_whitespace() -> None:
    assert distinct(["one  two", "three", "one\ntwo", " ", "three"]) == ("one  two", "three")


def test_a_section_printed_alone_and_in_its_chapter_is_kept_in_the_chapter() -> None:
    lines = [LONG.format(number) for number in range(8)]
    chapter, section, other = "\n".join(lines[:6]), "\n".join(lines[2:4]), "\n".join(lines[6:])
    assert distinct([section, chapter, other]) == (chapter, other)


def test_a_document_half_of_which_is_new_is_kept() -> None:
    lines = [LONG.format(number) for number in range(4)]
    documents = ("\n".join(lines[:3]), "\n".join(lines[2:]))
    assert distinct(documents) == documents
