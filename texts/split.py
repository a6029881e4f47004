"""Split a corpus into calibration, healing and held-out text without overlap."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import DataError, SettingError
from .corpus import Corpus
from .documents import distinct, divide_further, long_lines, mostly_within, normalised
from .windows import Tokenizer, count_tokens

PARTS = ("calibration", "healing", "heldout")

DEFAULT_SHARES = MappingProxyType({"calibration": 0.4, "healing": 0.4, "heldout": 0.2})
_EVEN = MappingProxyType(dict.fromkeys(PARTS, 1.0))

# More characters per token than any text has.
_MOST_CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True)
class Split:
    """Three tuples of documents; no document is in two of them, up to whitespace."""

    calibration: tuple[str, ...]
    healing: tuple[str, ...]
    heldout: tuple[str, ...]


def split(
    corpus: Corpus,
    *,
    shares: Mapping[str, float] | Sequence[float] = DEFAULT_SHARES,
    seed: int = 0,
) -> Split:
    """Assign every distinct document to one part, by characters, in a seeded random order.

    Duplicates are removed (see `documents.distinct`), and documents are split if they are too few
    or one is over a quarter of the text (see `documents.divide_further`). The shares are relative
    to one another and are met as closely as whole documents allow; every part gets at least one.

    Raises:
        DataError: there are fewer than three distinct documents after splitting.
        SettingError: a share is missing, unknown, not finite or not above zero.
    """
    wanted = _checked(shares)
    documents = list(distinct(divide_further(distinct(corpus.documents))))
    if len(documents) < len(PARTS):
        raise DataError(
            f"text '{corpus.name}' has {sum(map(len, documents))} characters once repeated "
            f"passages are left out, too few to divide into calibration, healing and held-out "
            f"text; give more text"
        )
    random.Random(seed).shuffle(documents)
    parts = _fill(documents, wanted)
    return Split(*map(tuple, parts))


def split_to_fit(
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    length: int,
    seed: int,
    heldout: bool = True,
    shares: Mapping[str, float] = DEFAULT_SHARES,
) -> Split:
    """Split with the given shares, or evenly if a part would not fill one window.

    Args:
        length: tokens in a window.
        heldout: whether the held-out part must fill a window too.
        shares: proportions of the three parts.

    Raises:
        DataError: the text does not fill a window of each part.
    """
    needed = PARTS if heldout else PARTS[:2]
    for wanted in (shares, _EVEN):
        found = split(corpus, shares=wanted, seed=seed)
        if all(_fills(getattr(found, part), tokenizer, length) for part in needed):
            return found
    tokens = count_tokens(distinct(corpus.documents), tokenizer)
    raise DataError(
        f"text '{corpus.name}' has {tokens} tokens; calibration, healing and held-out text need a "
        f"window of {length} tokens each, and room to divide: give about {4 * length} tokens or "
        f"more, or set length to {max(2, tokens // 4)} or less"
    )


def _fills(documents: Sequence[str], tokenizer: Tokenizer, length: int) -> bool:
    """Whether documents fill a window; a text that is certainly long enough is not tokenised."""
    if sum(map(len, documents)) > _MOST_CHARACTERS_PER_TOKEN * length:
        return True
    return count_tokens(documents, tokenizer) >= length


def shared_documents(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """Return the documents of the second text that are in the first.

    A document is if the first contains it up to whitespace, or if more than half of its long
    lines, in characters, are anywhere in the first, which also finds texts split differently.
    """
    wholes = set(map(normalised, first))
    lines = frozenset[str]().union(*map(long_lines, first))
    return tuple(
        document
        for document in second
        if normalised(document) in wholes or mostly_within(long_lines(document), lines)
    )


def _checked(shares: Mapping[str, float] | Sequence[float]) -> list[float]:
    if isinstance(shares, Mapping):
        if set(shares) != set(PARTS):
            raise SettingError(f"shares name {sorted(shares)}; name exactly {list(PARTS)}")
        shares = [shares[part] for part in PARTS]
    if len(shares) != len(PARTS):
        raise SettingError(f"shares has {len(shares)} numbers; give three: {', '.join(PARTS)}")
    for part, share in zip(PARTS, shares, strict=True):
        if not (math.isfinite(share) and share > 0):
            raise SettingError(f"share of {part} is {share}; give a finite number above 0")
    return [share / sum(shares) for share in shares]


def _fill(documents: Sequence[str], shares: Sequence[float]) -> list[list[str]]:
    """Assign each document to the part furthest below its share, the last ones to empty parts."""
    total = sum(map(len, documents))
    missing = [share * total for share in shares]
    parts: list[list[str]] = [[] for _ in shares]
    for place, document in enumerate(documents):
        empty = [index for index, part in enumerate(parts) if not part]
        must_fill = len(documents) - place <= len(empty)
        choices = empty if must_fill else range(len(parts))
        chosen = max(choices, key=lambda index: missing[index])
        parts[chosen].append(document)
        missing[chosen] -= len(document)
    return parts
