"""Mix several texts: no document twice, and windows in proportion to the weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError
from .corpus import Corpus, sample_documents
from .documents import distinct_places
from .windows import Tokenizer, Windows, choose_windows, pack_windows

# Characters tokenised per token asked for, in whole documents: about sixteen times what is needed.
_CHARACTERS_PER_TOKEN = 64


@dataclass(frozen=True)
class Weighted:
    """A corpus and its weight relative to the others."""

    corpus: Corpus
    weight: float = 1.0


def mixture_name(sources: Sequence[Weighted]) -> str:
    """Name several texts for reports, as `chat.jsonl (2) + wiki`; with weights if they differ."""
    plain = len({each.weight for each in sources}) == 1
    names = (
        each.corpus.name if plain else f"{each.corpus.name} ({each.weight:.3g})" for each in sources
    )
    return " + ".join(names)


def distinct_across(sources: Sequence[Weighted]) -> tuple[Weighted, ...]:
    """Remove documents that another source contains; the longer one, or the first, is kept.

    Raises:
        DataError: no document of a source is left.
    """
    documents = [
        (place, text) for place, each in enumerate(sources) for text in each.corpus.documents
    ]
    kept: list[list[str]] = [[] for _ in sources]
    for index in distinct_places([text for _, text in documents]):
        place, text = documents[index]
        kept[place].append(text)
    for texts, each in zip(kept, sources, strict=True):
        if not texts:
            raise DataError(
                f"text '{each.corpus.name}' holds nothing that the other sources do not hold too; "
                f"leave it out"
            )
    return tuple(
        Weighted(Corpus(each.corpus.name, tuple(texts)), each.weight)
        for texts, each in zip(kept, sources, strict=True)
    )


def mixed_windows(
    sources: Sequence[Weighted],
    tokenizer: Tokenizer,
    *,
    length: int,
    limit: int,
    text: str,
    seed: int,
) -> Windows:
    """Cut at most `limit` windows, from each source in proportion to its weight.

    No window contains text of two sources, and sources are interleaved evenly, so that the first
    windows are in proportion too. If a source is too short for its weight, the others fill up the
    rest, with a warning.

    Raises:
        DataError: a source has not enough tokens for one window.
    """
    packed = [
        pack_windows(
            sample_documents(each.corpus.documents, _CHARACTERS_PER_TOKEN * limit * length, seed),
            tokenizer,
            length=length,
            limit=limit,
            text=f"{each.corpus.name}, {text}",
            seed=seed,
        )
        for each in sources
    ]
    if len(packed) == 1:
        return packed[0]
    weights = [each.weight for each in sources]
    available = [each.num_windows for each in packed]
    counts = apportion(limit, weights, available)
    _warn_of_shortage(sources, counts, apportion(limit, weights, [limit] * len(sources)), text)
    chosen = [choose_windows(each.tokens, n, seed) for each, n in zip(packed, counts, strict=True)]
    return Windows(_interleaved(chosen), f"{mixture_name(sources)}, {text}")


def apportion(total: int, weights: Sequence[float], available: Sequence[int]) -> list[int]:
    """Split a total into whole numbers in proportion to the weights (Sainte-Laguë method).

    No number exceeds what is available; they sum to the total, or to all that is available.
    """
    counts = [0] * len(weights)
    for _ in range(min(total, sum(available))):
        open_places = [place for place, most in enumerate(available) if counts[place] < most]
        best = min(open_places, key=lambda place: (counts[place] + 0.5) / weights[place])
        counts[best] += 1
    return counts


def _interleaved(parts: Sequence[Tensor]) -> Tensor:
    """Rows of all parts, evenly interleaved; rows of one part stay in order."""
    places = [
        ((row + 0.5) / len(part), place, row)
        for place, part in enumerate(parts)
        for row in range(len(part))
    ]
    return torch.stack([parts[place][row] for _, place, row in sorted(places)])


def _warn_of_shortage(
    sources: Sequence[Weighted], counts: Sequence[int], wanted: Sequence[int], text: str
) -> None:
    for each, count, asked in zip(sources, counts, wanted, strict=True):
        if count < asked:
            warnings.warn(
                f"text '{each.corpus.name}', {text}: only {count} of the {asked} windows that its "
                f"weight {each.weight:.3g} asks for; the other sources fill up the rest as far "
                f"as they can",
                stacklevel=4,
            )
