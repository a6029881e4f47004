"""A corpus: documents under a short name, known by their content."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256


@dataclass(frozen=True)
class Corpus:
    """Documents and the short name they are printed under, e.g. `pydoc (CPython 3.11)`."""

    name: str
    documents: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, over the documents in order; the name does not count."""
        total = sha256()
        for document in self.documents:
            encoded = document.encode()
            total.update(len(encoded).to_bytes(8, "little"))
            total.update(encoded)
        return total.hexdigest()


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
