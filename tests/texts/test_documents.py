"""What counts as the same text, and where one long text is divided."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdbone.texts.documents import PARAGRAPH_GOAL, distinct, divide, divide_further, is_heading

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
    paragraphs = [f"{number:02}" * (PARAGRAPH_GOAL // 4) for number in range(45)]
    documents = divide("\n\n".join(paragraphs))
    pairs = ["\n\n".join(paragraphs[start : start + 2]) for start in range(0, 45, 2)]
    assert documents == tuple(pairs)


def test_a_short_text_is_divided_into_ten_documents() -> None:
    paragraphs = [chr(97 + number) * 500 for number in range(10)]
    assert divide("\n\n".join(paragraphs)) == tuple(paragraphs)


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"line {number} of many short ones" for number in range(3000)),
        " ".join(f"word{number}" for number in range(9000)),
        "".join(chr(0x4E00 + number) for number in range(5000)),
        "short\n\n" + " ".join(f"word{number}" for number in range(9000)) + "\n\nshort",
    ],
    ids=["lines", "one line", "no spaces", "one long paragraph"],
)
def test_a_text_with_too_few_paragraphs_is_divided_at_lines_spaces_or_by_length(text: str) -> None:
    documents = divide(text)
    assert len(documents) >= 10
    assert max(map(len, documents)) < 2 * PARAGRAPH_GOAL
    assert "".join("".join(documents).split()) == "".join(text.split())


@given(st.text(alphabet="ab \n=", max_size=2500))
def test_division_keeps_every_letter_in_order(text: str) -> None:
    assert "".join("".join(divide(text)).split()) == "".join(text.split())


def test_words_are_not_cut_where_there_are_spaces() -> None:
    text = " ".join(f"word{number}" for number in range(9000))
    assert [word for document in divide(text) for word in document.split()] == text.split()


def test_too_few_documents_or_one_that_is_most_of_all_are_divided_further() -> None:
    even = tuple(f"{number} " + "text " * 80 for number in range(10))
    assert divide_further(even) == even
    few = divide_further(even[:3])
    assert len(few) >= 6
    assert "".join("".join(few).split()) == "".join("".join(even[:3]).split())
    uneven = divide_further((*even, "long " * 4000))
    assert uneven[:10] == even
    assert len(uneven) > 15


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
