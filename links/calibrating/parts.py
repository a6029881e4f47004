"""Split text into four parts without overlap: calibration, healing, held-out, and elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...errors import DataError
from ...texts import (
    Corpus,
    Split,
    Tokenizer,
    Weighted,
    distinct_across,
    mixture_name,
    sample_documents,
    shared_documents,
    split_to_fit,
)
from ...texts.split import DEFAULT_SHARES
from .sources import PartSources, read_sources

PARTS = ("calibration", "healing", "heldout", "elsewhere")

# Characters read per token asked for, of a built-in text from elsewhere.
_CHARACTERS_PER_TOKEN = 64

Parts = Mapping[str, tuple[Weighted, ...]]
Shares = Mapping[str, float]


def read_parts(
    sources: PartSources,
    tokenizer: Tokenizer,
    *,
    length: int,
    elsewhere_windows: int,
    seed: int,
    own: Corpus | None = None,
    own_shares: Shares = DEFAULT_SHARES,
) -> Parts:
    """Return the documents of each part by source, with weights.

    Args:
        sources: sources of each part.
        tokenizer: tokenizer of the model.
        length: tokens per window; every source must yield one window for each part.
        elsewhere_windows: number of windows from elsewhere.
        seed: seed of the split.
        own: what was sampled from the model; None leaves that source out.
        own_shares: proportions of calibration, healing and held-out text in `own`.

    Raises:
        DataError: a source cannot be read or is too short, or parts share text.
    """
    parts = parts_of_data(
        sources, tokenizer, length=length, seed=seed, own=own, own_shares=own_shares
    )
    found = read_sources(sources.elsewhere, tokenizer)
    if sources.chosen:
        num_characters = _CHARACTERS_PER_TOKEN * elsewhere_windows * length
        return {**parts, "elsewhere": (_unshared(found[0], parts, num_characters, seed),)}
    _check_apart("text from elsewhere", found, parts)
    return {**parts, "elsewhere": distinct_across(found)}


def parts_of_data(
    sources: PartSources,
    tokenizer: Tokenizer,
    *,
    length: int,
    seed: int,
    own: Corpus | None = None,
    own_shares: Shares = DEFAULT_SHARES,
) -> Parts:
    """Return the calibration, healing and held-out parts, as `read_parts` does.

    Raises:
        DataError: a source cannot be read or is too short, or parts share text.
    """
    data = distinct_across(read_sources(sources.data, tokenizer, own))
    whole = sources.heldout is None
    splits = [
        split_to_fit(
            each.corpus,
            tokenizer,
            length=length,
            seed=seed,
            heldout=whole,
            shares=own_shares if own and each.corpus.name == own.name else DEFAULT_SHARES,
        )
        for each in data
    ]
    parts = {part: _part(data, splits, part) for part in PARTS[:3]}
    if sources.heldout is None:
        return parts
    heldout = read_sources(sources.heldout, tokenizer)
    taught = {**parts, "healing": _joined(parts["healing"], parts.pop("heldout"))}
    _check_apart("held-out text", heldout, taught)
    return {**taught, "heldout": distinct_across(heldout)}


def _part(data: Sequence[Weighted], splits: Sequence[Split], part: str) -> tuple[Weighted, ...]:
    return tuple(
        Weighted(Corpus(each.corpus.name, getattr(found, part)), each.weight)
        for each, found in zip(data, splits, strict=True)
    )


def _joined(first: Sequence[Weighted], second: Sequence[Weighted]) -> tuple[Weighted, ...]:
    """Concatenate two parts, source by source."""
    return tuple(
        Weighted(Corpus(a.corpus.name, a.corpus.documents + b.corpus.documents), a.weight)
        for a, b in zip(first, second, strict=True)
    )


def _documents(sources: Sequence[Weighted]) -> list[str]:
    return [document for each in sources for document in each.corpus.documents]


def _check_apart(what: str, found: Sequence[Weighted], parts: Parts) -> None:
    """Refuse text that shares documents with other parts."""
    used = [document for each in parts.values() for document in _documents(each)]
    shared = shared_documents(used, _documents(found))
    if shared:
        names = " or ".join(dict.fromkeys(mixture_name(each) for each in parts.values()))
        raise DataError(
            f"{what} '{mixture_name(found)}' shares {len(shared)} documents with '{names}', the "
            f"first beginning {shared[0][:40]!r}; evaluate on text that is used for nothing else"
        )


def _unshared(found: Weighted, parts: Parts, num_characters: int, seed: int) -> Weighted:
    """Sample documents of a built-in text, without those that are in another part."""
    chosen = sample_documents(found.corpus.documents, num_characters, seed)
    used = [document for each in parts.values() for document in _documents(each)]
    shared = set(shared_documents(used, chosen))
    kept = tuple(document for document in chosen if document not in shared)
    return Weighted(Corpus(found.corpus.name, kept), found.weight)
