"""What sampled documents begin with: a token of the vocabulary, or a chat template's user turn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from transformers import PreTrainedTokenizerBase

# No text holds it, so that it is found again in what a chat template renders.
_MARK = "\ue000birdbone\ue001"
_REFUSED = (ValueError, TypeError, KeyError, AttributeError, RuntimeError)

# Tokens of a user turn after which it is closed: questions are short.
USER_TOKENS = 48


@dataclass(frozen=True)
class Start:
    """The tokens a document begins with.

    Attributes:
        tokens: put before anything is sampled.
        closing: tokens that end a user turn and open the answer. They follow once the model has
            ended the turn, or after `USER_TOKENS`. Empty where the document is plain text.
        num_given: how many of ``tokens``, from the first, the chat template put there.
    """

    tokens: tuple[int, ...]
    closing: tuple[int, ...] = ()
    num_given: int = 0


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that are no text: special ones, and all others that were added as such."""
    added = tokenizer.added_tokens_decoder
    special = {token for token, about in added.items() if about.special}
    return frozenset(special | set(tokenizer.all_special_ids))


def beginnings(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens a document may begin with: whole words, and all that are text.

    Words are tokens of letters alone that follow a space or are written with a capital. Where the
    tokenizer marks no words, as for languages without spaces, there are as many as there are.
    """
    control = control_tokens(tokenizer)
    size = min(vocab_size, len(tokenizer))
    texts = {token: str(tokenizer.decode([token])) for token in range(size) if token not in control}
    # Parts of a character decode to U+FFFD: no text begins with one.
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
    """What the chat template puts before a user's first message, and after it up to the answer.

    None where there is no template, or one that renders no single message or not as it is.
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
    """What documents of one model may begin with.

    Attributes:
        words, anything: tokens, see `beginnings`.
        turn: what surrounds a user turn, see `chat_turn`; None leaves all documents plain text.
    """

    words: tuple[int, ...]
    anything: tuple[int, ...]
    turn: tuple[tuple[int, ...], tuple[int, ...]] | None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Starts:
        """All there are for a tokenizer, and a model with so many embeddings."""
        return cls(*beginnings(tokenizer, vocab_size), chat_turn(tokenizer))

    def draw(self, count: int, *, chat: bool, generator: random.Random) -> list[Start]:
        """Starts of one batch, all of one length: one half words, the other any token that is text.

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
