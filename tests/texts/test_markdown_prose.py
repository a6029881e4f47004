"""Prose of a page: sentences stay, whatever is easily predicted goes."""

import pytest

from birdbone.texts.markdown_prose import prose

SENTENCE = (
    "The library reads a model from its folder, measures what every layer contributes to the "
    "output, and then removes the parts that contribute least to what the model predicts."
)


def test_paragraphs_are_kept_each_on_one_line() -> None:
    page = f"# Title\n\n{SENTENCE.replace(', ', ',' + chr(10))}\n\n- short item\n\n{SENTENCE}\n"
    assert prose(page) == f"{SENTENCE}\n\n{SENTENCE}"


def test_links_leave_their_text_and_images_tags_and_comments_leave_nothing() -> None:
    marked = SENTENCE.replace("The library", "![logo](a.svg) The [library](https://example.org)")
    marked = marked.replace("model", "<b>model</b>", 1) + "<!-- a remark -->"
    assert prose(marked) == SENTENCE


@pytest.mark.parametrize(
    "paragraph",
    [
        f"```text\n{SENTENCE}\n```",
        f"~~~\n\n{SENTENCE}\n\n~~~",
        f"    {SENTENCE}",
        "| " + " | ".join(SENTENCE.split()) + " |",
        SENTENCE.removesuffix("."),
        "Too few words to be a paragraph of prose.",
        "x = " + ", ".join(f"f_{n}(a[{n}])" for n in range(40)) + ".",
    ],
)
def test_what_is_no_prose_is_left_out(paragraph: str) -> None:
    assert prose(f"{paragraph}\n\n{SENTENCE}") == SENTENCE
