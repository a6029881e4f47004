"""The four parts of the text: calibration, healing, held-out, and from elsewhere; none overlap."""

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
from .sources import PartSources, read_sources

PARTS = ("calibration", "healing", "heldout", "elsewhere")

# Documents read of a built-in text from elsewhere, in characters per token that is asked for.
_CHARACTERS_PER_TOKEN = 64

Parts = Mapping[str, tuple[Weighted, ...]]


def read_parts(
    sources: PartSources,
    tokenizer: Tokenizer,
    *,
    length: int,
    elsewhere_windows: int,
    seed: int,
    own: Corpus | None = None,
) -> Parts:
    """Documents by part, each source with its weight.

    Args:
        sources: where each part is from.
        tokenizer: of the model.
        length: tokens in a window, one of which every source must give to every part.
        elsewhere_windows: how many windows from elsewhere are asked for.
        seed: of the division.
        own: what was sampled from the model; None leaves that source out.

    Raises:
        DataError: a source cannot be read or is too short, or parts share text.
    """
    parts = parts_of_data(sources, tokenizer, length=length, seed=seed, own=own)
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
) -> Parts:
    """The calibration, healing and held-out part, as `read_parts` divides them.

    Raises:
        DataError: a source cannot be read or is too short, or parts share text.
    """
    data = distinct_across(read_sources(sources.data, tokenizer, own))
    whole = sources.heldout is None
    splits = [
        split_to_fit(each.corpus, tokenizer, length=length, seed=seed, heldout=whole)
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
    """Both parts of each source."""
    return tuple(
        Weighted(Corpus(a.corpus.name, a.corpus.documents + b.corpus.documents), a.weight)
        for a, b in zip(first, second, strict=True)
    )


def _documents(sources: Sequence[Weighted]) -> list[str]:
    return [document for each in sources for document in each.corpus.documents]


def _check_apart(what: str, found: Sequence[Weighted], parts: Parts) -> None:
    """Refuse text of which the parts hold a document already."""
    used = [document for each in parts.values() for document in _documents(each)]
    shared = shared_documents(used, _documents(found))
    if shared:
        names = " or ".join(dict.fromkeys(mixture_name(each) for each in parts.values()))
        raise DataError(
            f"{what} '{mixture_name(found)}' shares {len(shared)} documents with '{names}', the "
            f"first beginning {shared[0][:40]!r}; evaluate on text that is used for nothing else"
        )


def _unshared(found: Weighted, parts: Parts, num_characters: int, seed: int) -> Weighted:
    """Some documents of a text that was chosen here, without those that another part holds."""
    chosen = sample_documents(found.corpus.documents, num_characters, seed)
    used = [document for each in parts.values() for document in _documents(each)]
    shared = set(shared_documents(used, chosen))
    kept = tuple(document for document in chosen if document not in shared)
    return Weighted(Corpus(found.corpus.name, kept), found.weight)
