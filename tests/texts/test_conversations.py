"""Conversations of every common shape become the same messages, and templates make text of them."""

import json
from typing import Any

import pytest
from tiny import tiny_tokenizer

from birdbone.errors import DataError
from birdbone.texts.conversations import Conversation, from_messages, from_turns, render

PLAIN = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"


def messages(conversation: Conversation) -> Any:
    return json.loads(conversation.messages)


@pytest.mark.parametrize(
    "value",
    [
        PLAIN,
        [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Good day"}],
        [PLAIN[0], {"role": "assistant", "content": [{"type": "text", "text": "Good day"}]}],
        [{**PLAIN[0], "tool_calls": None, "name": None}, PLAIN[1]],
    ],
)
def test_common_shapes_are_one(value: Any) -> None:
    assert messages(from_messages(value, "here")) == PLAIN


def test_turns_are_texts_or_messages_after_a_system_message() -> None:
    assert messages(from_turns("Hello", "Good day", None, "")) == PLAIN
    assert messages(from_turns(PLAIN[:1], PLAIN[1:], None, "")) == PLAIN
    found = messages(from_turns("Hello", "Good day", "Be short.", ""))
    assert found == [{"role": "system", "content": "Be short."}, *PLAIN]


def test_a_call_of_a_tool_needs_no_content() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    assert messages(from_messages([call], ""))[0] == {**call, "content": ""}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], r"line 3 holds no list of messages but \[\]"),
        ("Hello", "line 3 holds no list of messages but 'Hello'"),
        (["Hello"], "line 3, message 1 is no object of role and content but 'Hello'"),
        ([PLAIN[0], {"content": "x"}], r"message 2 has no role; its keys are \['content'\]"),
        ([{"role": "user"}], r"message 1 has no content; its keys are \['role'\]"),
        (
            [{"role": "user", "content": [{"type": "image", "url": "x"}]}],
            "message 1 holds image beside text; leave such conversations out",
        ),
    ],
)
def test_what_is_no_conversation_is_refused_with_its_line(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_messages(value, "file 'c.jsonl', line 3")


def test_a_turn_that_is_no_text_is_refused() -> None:
    with pytest.raises(DataError, match="line 3 holds no text or messages as a turn but 5"):
        from_turns("Hello", 5, None, "line 3")


def test_the_tokenizers_template_writes_the_text() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    text = render(from_messages(PLAIN, ""), tokenizer)
    assert text == "<user>Hello\n<assistant>Good day\n"


def test_of_several_templates_the_default_one_is_used() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": TEMPLATE, "tool_use": "{{ tools }}"}
    assert render(from_messages(PLAIN, ""), tokenizer).startswith("<user>Hello")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"line 3 is a conversation.*no chat template.*put chat_template\.jinja"),
        ("{{ raise_exception('roles must alternate') }}", r"line 3: .*\(roles must alternate\)"),
        ("{{ messages[7].content.x }}", "line 3: the chat template of this model cannot render"),
        ("{% for %}", "line 3: the chat template of this model cannot render"),
        ({"tool_use": "x"}, "line 3: the chat template of this model cannot render"),
    ],
)
def test_a_conversation_that_cannot_be_rendered_names_its_line(template: Any, message: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(DataError, match=message):
        render(from_messages(PLAIN, "file 'c.jsonl', line 3"), tokenizer)


def test_where_it_stands_is_no_part_of_a_conversation() -> None:
    assert from_messages(PLAIN, "line 1") == from_messages(PLAIN, "line 2")
