"""A corpus: documents under a short name, as they were read and as a model reads them."""

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
    """What a source holds, before a model's tokenizer is known.

    Attributes:
        name: the short name it is printed under.
        documents: texts and conversations.
    """

    name: str
    documents: tuple[Document, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, over the documents in order; the name does not count."""
        total = sha256()
        for document in self.documents:
            encoded = _content(document).encode()
            total.update(len(encoded).to_bytes(8, "little"))
            total.update(type(document).__name__.encode() + encoded)
        return total.hexdigest()

    @property
    def num_characters(self) -> int:
        """Characters of the documents, of conversations as JSON."""
        return sum(len(_content(each)) for each in self.documents)

    @cached_property
    def num_duplicates(self) -> int:
        """How many documents another one holds already (see `documents.distinct`)."""
        return len(self.documents) - len(
            distinct_places([_content(each) for each in self.documents])
        )

    @cached_property
    def scripts(self) -> Mapping[str, float]:
        """Fraction of the letters by script (see `scripts.scripts`)."""
        return scripts(
            text
            for each in self.documents
            for text in (each.texts() if isinstance(each, Conversation) else (each,))
        )

    def rendered(self, tokenizer: Any | None) -> Corpus:
        """The documents as text, conversations by the tokenizer's chat template.

        Raises:
            DataError: there are conversations, and no template that renders them.
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
    """Documents and the short name they are printed under, e.g. `pydoc (CPython 3.11)`."""

    name: str
    documents: tuple[str, ...]


def sample_documents(documents: Sequence[str], characters: int, seed: int) -> tuple[str, ...]:
    """Choose whole documents at random until they hold so many characters; their order is kept.

    All of them where they hold no more than that.
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
