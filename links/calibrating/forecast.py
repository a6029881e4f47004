"""What calibrate would leave, and what its sources hold, before a run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ...checkpoints import Checkpoint
from ...contexts.forecast import Forecast
from ...models.planning.effort import outlined_windows
from ...models.reading.tokenizer import load_tokenizer
from ...models.sampling.self_text import decoded_alone, sampling_bytes
from ...texts import (
    Corpus,
    SourceReport,
    Tokenizer,
    Weighted,
    count_tokens,
    mixture_name,
    read_raw,
    report_source,
)
from .amount import shortage, widest_input
from .own_text import NAME, SELF, tokens_to_sample, windows_to_sample
from .parts import PARTS, read_parts
from .sources import PartSources

# Reading, dividing and tokenising: what the built-in texts take, and a character of other text.
_READ_SECONDS = 1.5
_CHARACTER_SECONDS = 3e-7

_DOCUMENT_TOKENS = 200  # of a sampled document, on average; the longest has 256
_CHARACTERS_PER_TOKEN = 4

_COUNTED_CHARACTERS = 100_000  # of a part; a longer one is counted by its tokens per character


@dataclass(frozen=True)
class _Question:
    """All that decides what is found in the sources, and the model it is asked for."""

    sources: PartSources
    content: tuple[str, ...]
    tokenizer: str
    length: int
    seed: int
    elsewhere_windows: int
    checkpoint: Checkpoint = field(compare=False)


@dataclass(frozen=True)
class _Found:
    """The reports, and by part how many windows there are (None: not known) and their text."""

    reports: tuple[SourceReport, ...]
    available: Mapping[str, int | None]
    names: Mapping[str, str]


def texts_forecast(
    checkpoint: Checkpoint,
    sources: PartSources,
    limits: Mapping[str, int],
    *,
    length: int,
    seed: int,
) -> Forecast:
    """Read the sources and outline the windows; refuses what the run would refuse.

    Text that is to be sampled from the model is taken to be enough. Without a tokenizer at hand,
    as for a GGUF file, whose tokenizer takes seconds to read, tokens are estimated and short texts
    pass.

    Raises:
        DataError, MissingExtraError: a source cannot be read or is too short, or parts share text.
    """
    content = tuple(read_raw(each).digest for each in sources.all)
    found = _look(
        _Question(
            sources,
            content,
            _tokenizer_files(checkpoint),
            length,
            seed,
            limits["elsewhere"],
            checkpoint,
        )
    )
    first, adds = 0, {}
    for part in PARTS:
        there = found.available[part]
        count = limits[part] if there is None else min(limits[part], there)
        adds[part] = outlined_windows(count, length, f"{found.names[part]}, {part}", first)
        first += adds[part].num_tokens
    sampled = tokens_to_sample(windows_to_sample(sources.data, limits), length)
    short = shortage(adds["calibration"].num_tokens, widest_input(checkpoint), length)
    characters = sum(each.characters for each in found.reports)
    return Forecast(
        adds=adds,
        seconds=_READ_SECONDS + _CHARACTER_SECONDS * characters,
        notes=() if short is None else (short,),
        texts=(*_sampled(sources, sampled), *found.reports),
        decoded_tokens=decoded_alone(sampled),
        memory_bytes=sampling_bytes(checkpoint) if sampled else 0,
    )


@lru_cache(maxsize=2)
def _look(asked: _Question) -> _Found:
    """What the sources hold; remembered, for a look tries one run with several settings."""
    tokenizer = load_tokenizer(asked.checkpoint) if asked.tokenizer else None
    reports = _reports(asked.sources, tokenizer)
    if tokenizer is None:
        names = dict.fromkeys(PARTS, " + ".join(each.name for each in reports))
        names |= _sampled_names(asked.sources, reports)
        return _Found(reports, dict.fromkeys(PARTS), names)
    parts = read_parts(
        asked.sources,
        tokenizer,
        length=asked.length,
        elsewhere_windows=asked.elsewhere_windows,
        seed=asked.seed,
    )
    sampled = _sampled_names(asked.sources, reports)
    available = {
        part: None if part in sampled else _num_windows(found, reports, tokenizer, asked.length)
        for part, found in parts.items()
    }
    names = {part: mixture_name(found) for part, found in parts.items()}
    return _Found(reports, available, names | sampled)


def _sampled_names(sources: PartSources, reports: Iterable[SourceReport]) -> dict[str, str]:
    """The texts of the parts that hold some sampled from the model, by part."""
    if not sources.samples:
        return {}
    read = (each.name for each in reports if each.use == "data")
    names = ((NAME if each.place == SELF else next(read), each.weight) for each in sources.data)
    name = mixture_name([Weighted(Corpus(text, ()), weight) for text, weight in names])
    return dict.fromkeys(PARTS[:3] if sources.heldout is None else PARTS[:2], name)


def _sampled(sources: PartSources, num_tokens: int) -> tuple[SourceReport, ...]:
    """What will be there of text sampled from the model, about."""
    return tuple(
        SourceReport(
            name=NAME,
            use="data",
            weight=each.weight,
            documents=max(1, num_tokens // _DOCUMENT_TOKENS),
            duplicates=None,
            characters=num_tokens * _CHARACTERS_PER_TOKEN,
            tokens=num_tokens,
            is_estimate=True,
        )
        for each in sources.data
        if each.place == SELF
    )


def _tokenizer_files(checkpoint: Checkpoint) -> str:
    """A digest of the files the tokenizer is made of; empty where there is none at hand."""
    files = {
        name: data
        for name, data in sorted(checkpoint.top_files.items())
        if any(word in name for word in ("token", "vocab", "merges", "chat_template", ".model"))
    }
    total = hashlib.sha256()
    for name, data in files.items():
        total.update(f"{name} {len(data)} ".encode() + data)
    return total.hexdigest() if files else ""


def _reports(sources: PartSources, tokenizer: Any | None) -> tuple[SourceReport, ...]:
    uses = {
        "data": sources.data,
        "held-out": sources.heldout or (),
        "elsewhere": sources.elsewhere,
    }
    return tuple(
        report_source(
            address,
            use,
            tokenizer,
            duplicates=not (sources.chosen and use == "elsewhere"),
        )
        for use, found in uses.items()
        for address in found
        if address.place != SELF
    )


def _num_windows(
    part: tuple[Weighted, ...],
    reports: tuple[SourceReport, ...],
    tokenizer: Tokenizer,
    length: int,
) -> int:
    """Windows of a part: counted where it is short, else by its tokens per character."""
    density = {each.name: each.tokens / max(each.characters, 1) for each in reports}
    total = 0
    for each in part:
        characters = sum(map(len, each.corpus.documents))
        if characters <= _COUNTED_CHARACTERS:
            total += count_tokens(each.corpus.documents, tokenizer) // length
        else:
            total += int(characters * density[each.corpus.name]) // length
    return max(total, 1)
