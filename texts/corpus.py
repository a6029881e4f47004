"""Documents under a short name: as read, and rendered as text for one model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from .columns import Document
from .conversations import Conversation, render
from .documents import distinct_places
from .scripts import scripts


@dataclass(frozen=True)
class RawText:
    """The documents of a source, before conversations are rendered.

    Attributes:
        name: short name for reports.
        documents: texts and conversations.
    """

    name: str
    documents: tuple[Document, ...]

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the documents in order; the name is not included."""
        total = sha256()
        for document in self.documents:
            encoded = _content(document).encode()
            total.update(len(encoded).to_bytes(8, "little"))
            total.update(type(document).__name__.encode() + encoded)
        return total.hexdigest()

    @property
    def num_characters(self) -> int:
        """Number of characters; conversations count as JSON."""
        return sum(len(_content(each)) for each in self.documents)

    @cached_property
    def num_duplicates(self) -> int:
        """Number of documents contained in another one (see `documents.distinct`)."""
        return len(self.documents) - len(
            distinct_places([_content(each) for each in self.documents])
        )

    @cached_property
    def scripts(self) -> Mapping[str, float]:
        """Fraction of letters per script (see `scripts.scripts`)."""
        return scripts(
            text
            for each in self.documents
            for text in (each.texts() if isinstance(each, Conversation) else (each,))
        )

    def rendered(self, tokenizer: Any | None) -> Corpus:
        """Render conversations with the tokenizer's chat template; blank documents are dropped.

        Raises:
            DataError: a conversation cannot be rendered.
        """
        texts = (
            render(each, tokenizer) if isinstance(each, Conversation) else each
            for each in self.documents
        )
        return Corpus(self.name, tuple(text for text in texts if text.strip()))


def _content(document: Document) -> str:
    return document.messages if isinstance(document, Conversation) else document


@dataclass(frozen=True)
class Corpus:
    """Documents as text, and their short name in reports, e.g. `pydoc (CPython 3.11)`."""

    name: str
    documents: tuple[str, ...]


def sample_documents(documents: Sequence[str], characters: int, seed: int) -> tuple[str, ...]:
    """Choose random whole documents with at least so many characters in all, in their order.

    Returns all documents if they are shorter in all.
    """
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    chosen: list[int] = []
    for index in order:
        if characters <= 0:
            break
        chosen.append(index)
        characters -= len(documents[index])
    return tuple(documents[index] for index in sorted(chosen))
