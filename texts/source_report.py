"""What a source holds, in figures, for the look before a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .addresses import TextAddress
from .corpus import sample_documents
from .sources import read_raw
from .windows import count_tokens

_COUNTED_CHARACTERS = 50_000
_CHARACTERS_PER_TOKEN = 4  # of English under common tokenizers, where none is at hand


@dataclass(frozen=True)
class SourceReport:
    """One source of text.

    Attributes:
        name: what it is printed as.
        use: what it is for: data, held-out text, or text from elsewhere.
        weight: relative to the other sources of the same use.
        documents: how many, duplicates included.
        duplicates: how many of them another one holds already; they are left out. None where it
            was not counted.
        characters: in all documents.
        tokens: in all documents.
        is_estimate: whether tokens were counted on a part of the text only, or not at all.
        scripts: fraction of the letters by script.
    """

    name: str
    use: str
    weight: float
    documents: int
    duplicates: int | None
    characters: int
    tokens: int
    is_estimate: bool
    scripts: Mapping[str, float] = field(default_factory=dict)


def report_source(
    address: TextAddress, use: str, tokenizer: Any | None, *, duplicates: bool = True
) -> SourceReport:
    """Read a source and count what it holds; without a tokenizer, four characters are a token.

    Args:
        address: of the source.
        use: what it is for.
        tokenizer: of the model; None where it is not at hand.
        duplicates: count them, which takes a second for ten million characters.

    Raises:
        DataError, MissingExtraError: it cannot be read, is too short, or cannot be rendered.
    """
    raw = read_raw(address)
    characters, tokens, is_estimate = raw.num_characters, 0, True
    if tokenizer is None:
        tokens = characters // _CHARACTERS_PER_TOKEN
    else:
        documents = raw.rendered(tokenizer).documents
        characters = sum(map(len, documents))
        sample = sample_documents(documents, _COUNTED_CHARACTERS, seed=0)
        counted = sum(map(len, sample))
        tokens = round(count_tokens(sample, tokenizer) * characters / max(counted, 1))
        is_estimate = counted < characters
    return SourceReport(
        name=raw.name,
        use=use,
        weight=address.weight,
        documents=len(raw.documents),
        duplicates=raw.num_duplicates if duplicates else None,
        characters=characters,
        tokens=tokens,
        is_estimate=is_estimate,
        scripts=raw.scripts,
    )
