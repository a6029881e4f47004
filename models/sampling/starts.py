"""Starts of sampled documents: a token of the vocabulary, or the user turn of a chat template."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from transformers import PreTrainedTokenizerBase

# Occurs in no text, so it can be located in the rendered chat template.
_MARK = "\ue000birdbone\ue001"
_REFUSED = (ValueError, TypeError, KeyError, AttributeError, RuntimeError)

# Maximum number of tokens of a user turn.
USER_TOKENS = 48


@dataclass(frozen=True)
class Start:
    """The first tokens of a document.

    Attributes:
        tokens: placed before the sampled tokens.
        closing: tokens that end the user turn and open the answer. They are inserted when the
            model ends the turn, or after `USER_TOKENS`. Empty for plain text.
        num_given: number of leading ``tokens`` that come from the chat template.
    """

    tokens: tuple[int, ...]
    closing: tuple[int, ...] = ()
    num_given: int = 0


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that are not text: special tokens and added tokens."""
    added = tokenizer.added_tokens_decoder
    special = {token for token, about in added.items() if about.special}
    return frozenset(special | set(tokenizer.all_special_ids))


def beginnings(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens a document can begin with: the whole words, and all text tokens.

    Words are tokens of letters only that follow a space or begin with a capital. If there are
    none, all text tokens count as words.
    """
    control = control_tokens(tokenizer)
    size = min(vocab_size, len(tokenizer))
    texts = {token: str(tokenizer.decode([token])) for token in range(size) if token not in control}
    # Incomplete UTF-8 sequences decode to U+FFFD; no text begins with one.
    anything = tuple(
        token for token, text in texts.items() if text.strip() and "\ufffd" not in text
    )
    pieces = dict(zip(anything, tokenizer.convert_ids_to_tokens(list(anything)), strict=True))
    words = tuple(
        token
        for token in anything
        if texts[token].strip().isalpha()
        and (pieces[token][:1] in ("Ġ", "▁", " ") or texts[token].strip()[:1].isupper())
    )
    return words or anything, anything


def chat_turn(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Tokens of the chat template before the first user message, and from there to the answer.

    None if there is no template, or if it cannot render a single message verbatim.
    """
    if not tokenizer.chat_template:
        return None
    try:
        rendered: Any = tokenizer.apply_chat_template(
            [{"role": "user", "content": _MARK}], tokenize=False, add_generation_prompt=True
        )
    except (*_REFUSED, _template_error()):
        return None
    before, found, after = str(rendered).partition(_MARK)
    if not found or not before or not after:
        return None
    opening, closing = (
        tuple(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (before, after)
    )
    return opening, closing


@dataclass(frozen=True)
class Starts:
    """The possible starts of documents for one model.

    Attributes:
        words, anything: tokens, see `beginnings`.
        turn: tokens around a user turn, see `chat_turn`; None for plain text only.
    """

    words: tuple[int, ...]
    anything: tuple[int, ...]
    turn: tuple[tuple[int, ...], tuple[int, ...]] | None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Starts:
        """The starts for a tokenizer and a model with ``vocab_size`` embeddings."""
        return cls(*beginnings(tokenizer, vocab_size), chat_turn(tokenizer))

    def draw(self, count: int, *, chat: bool, generator: random.Random) -> list[Start]:
        """Draw the starts of a batch, all of one length: half words, half any text token.

        With ``chat`` they are user turns, if the model has a template.
        """
        turn = self.turn if chat else None
        opening, closing = turn or ((), ())
        return [
            Start((*opening, _choice(tokens, generator)), closing, len(opening))
            for tokens, _ in zip(cycle((self.words, self.anything)), range(count), strict=False)
        ]


def _choice(tokens: Sequence[int], generator: random.Random) -> int:
    return tokens[generator.randrange(len(tokens))]


def _template_error() -> type[Exception]:
    from jinja2 import TemplateError

    return TemplateError
