"""Conversations: parsed from rows of a table, rendered as text by a model's chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jinja2

from ..errors import DataError

# ShareGPT role names and their chat template equivalents.
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "observation": "tool",
}
_ALSO_KEPT = ("tool_calls", "name", "tool_call_id")


class ChatTokenizer(Protocol):
    """The part of transformers' `PreTrainedTokenizerBase` that renders conversations."""

    chat_template: Any

    def apply_chat_template(self, conversation: Any, *, tokenize: bool) -> Any:
        """Return the conversation as text if `tokenize` is False."""


@dataclass(frozen=True)
class Conversation:
    """Messages of a role and content each.

    Attributes:
        messages: a JSON list of objects, its keys sorted.
        where: file and line, or row, for error messages; ignored in comparisons.
    """

    messages: str
    where: str = field(default="", compare=False)

    def texts(self) -> list[str]:
        """The contents of the messages."""
        return [message["content"] for message in json.loads(self.messages)]


def from_messages(value: Any, where: str) -> Conversation:
    """Parse a list of messages with `role` and `content`, or ShareGPT's `from` and `value`.

    Raises:
        DataError: it is not such a list, or a message contains something other than text.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise DataError(f"{where} holds no list of messages but {_shortly(value)}")
    found = [_message(each, f"{where}, message {number}") for number, each in enumerate(value, 1)]
    return Conversation(json.dumps(found, ensure_ascii=False, sort_keys=True), where)


def from_turns(prompt: Any, response: Any, system: Any, where: str) -> Conversation:
    """Parse a prompt and its response, texts or lists of messages, and a system message if any.

    Raises:
        DataError: one of them is neither.
    """
    messages: list[Any] = [{"role": "system", "content": system}] if system else []
    for role, turn in (("user", prompt), ("assistant", response)):
        is_text = isinstance(turn, str)
        messages += [{"role": role, "content": turn}] if is_text else _listed(turn, where)
    return from_messages(messages, where)


def render(conversation: Conversation, tokenizer: ChatTokenizer | Any) -> str:
    """Render a conversation with the chat template of a tokenizer.

    Raises:
        DataError: the tokenizer has no chat template, or the template raised an error.
    """
    where = conversation.where or "a conversation"
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"{where} is a conversation, and the tokenizer of this model has no chat template to "
            f"render it; put chat_template.jinja beside the weights, or give a column of "
            f"text with ?column=NAME"
        )
    try:
        text = tokenizer.apply_chat_template(json.loads(conversation.messages), tokenize=False)
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise DataError(
            f"{where}: the chat template of this model cannot render the conversation "
            f"({error}); change it or leave it out"
        ) from error
    return str(text)


def _listed(turn: Any, where: str) -> Sequence[Any]:
    if not isinstance(turn, Sequence):
        raise DataError(f"{where} holds no text or messages as a turn but {_shortly(turn)}")
    return turn


def _message(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is no object of role and content but {_shortly(value)}")
    role = value.get("role") or value.get("from")
    if not isinstance(role, str):
        raise DataError(f"{where} has no role; its keys are {sorted(map(str, value))}")
    content = next((value[key] for key in ("content", "value") if value.get(key) is not None), None)
    kept = {key: value[key] for key in _ALSO_KEPT if value.get(key)}
    if content is None and not kept.get("tool_calls"):
        raise DataError(f"{where} has no content; its keys are {sorted(map(str, value))}")
    return {"role": _ROLES.get(role, role), "content": _text_of(content, where), **kept}


def _text_of(content: Any, where: str) -> str:
    """The text of a content that is a string or a list of parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content.replace("\r\n", "\n").replace("\r", "\n")
    parts = content if isinstance(content, Sequence) else [content]
    for part in parts:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else None
            raise DataError(
                f"{where} holds {kind or _shortly(part)} beside text; leave such conversations out"
            )
    return "".join(_text_of(part["text"], where) for part in parts)


def _shortly(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
