"""Statistics of a source, for the preflight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .addresses import TextAddress
from .corpus import sample_documents
from .sources import read_raw
from .windows import count_tokens

_COUNTED_CHARACTERS = 50_000
_CHARACTERS_PER_TOKEN = 4  # of English text with common tokenizers


@dataclass(frozen=True)
class SourceReport:
    """Statistics of one source.

    Attributes:
        name: name in reports.
        use: data, held-out, or elsewhere.
        weight: relative to the other sources of the same use.
        documents: number of documents, including duplicates.
        duplicates: number of documents contained in another one, which are not used; None if not
            counted.
        characters: number of characters.
        tokens: number of tokens.
        is_estimate: whether only a part of the tokens were counted, or none.
        scripts: fraction of letters per script.
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
    """Read a source and compute its statistics; without a tokenizer, four characters per token.

    Args:
        address: the source.
        use: data, held-out, or elsewhere.
        tokenizer: tokenizer of the model; None if unavailable.
        duplicates: count duplicates, which takes a second per ten million characters.

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
