"""The column that holds text is found by its name, or the columns there are are listed."""

import json
from typing import Any

import pytest

from birdbone.errors import DataError
from birdbone.texts.columns import document_of, used_columns
from birdbone.texts.conversations import Conversation

ASKED, ANSWERED = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}


@pytest.mark.parametrize(
    ("names", "used"),
    [
        (["id", "text"], ("text",)),
        (["text", "messages", "system"], ("messages", "system")),
        (["response", "prompt", "score"], ("prompt", "response")),
        (["output", "instruction", "input"], ("instruction", "output", "input")),
        (["title", "content"], ("content",)),
    ],
)
def test_a_column_is_found_by_its_name(names: list[str], used: tuple[str, ...]) -> None:
    assert used_columns(names, None, "here") == used
    assert used_columns(names, names[0], "here") == (names[0],)


def test_the_columns_are_listed_where_none_is_known() -> None:
    with pytest.raises(DataError, match=r"quiz has no column with text: .* 'a', 'q'; .*\?column="):
        used_columns(["q", "a"], None, "quiz")
    with pytest.raises(DataError, match="quiz has no column 'body'; its columns are 'a', 'q'"):
        used_columns(["q", "a"], "body", "quiz")


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": [ASKED, ANSWERED]}, [ASKED, ANSWERED]),
        ({"conversations": [{"from": "human", "value": "Why?"}]}, [ASKED]),
        ({"prompt": "Why?", "response": "So."}, [ASKED, ANSWERED]),
        ({"instruction": "Why?", "output": "So.", "input": ""}, [ASKED, ANSWERED]),
        (
            {"instruction": "Sum up.", "output": "So.", "input": "It rains."},
            [{"role": "user", "content": "Sum up.\n\nIt rains."}, ANSWERED],
        ),
        (
            {"messages": [ASKED], "system": "Be short."},
            [{"role": "system", "content": "Be short."}, ASKED],
        ),
    ],
)
def test_rows_are_conversations(row: Any, messages: Any) -> None:
    document = document_of(row, None, "line 3")
    assert isinstance(document, Conversation)
    assert (json.loads(document.messages), document.where) == (messages, "line 3")


def test_rows_are_texts_with_the_line_ends_of_unix() -> None:
    assert document_of({"text": "a\r\nb"}, None, "") == "a\nb"
    assert document_of("a\rb", None, "") == "a\nb"
    assert document_of({"text": "a", "body": "b"}, "body", "") == "b"


@pytest.mark.parametrize(
    "row", [{"text": " \n"}, {"text": None}, {"messages": None}, {"messages": []}, " "]
)
def test_a_blank_row_is_no_document(row: Any) -> None:
    assert document_of(row, None, "") is None


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        ({"text": 5}, None, "line 3: column 'text' holds int, not text"),
        ({"text": ["a"]}, None, "line 3: column 'text' holds list, not text"),
        ({"body": 5}, "body", "line 3: column 'body' holds int, not text"),
        (5, None, "line 3 is neither an object nor text but int"),
        ("a", "body", "line 3 is neither an object nor text but str"),
    ],
)
def test_a_row_without_text_is_refused(row: Any, column: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        document_of(row, column, "line 3")
