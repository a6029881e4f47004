"""calibrate: read text, divide it so that no part overlaps another, and tokenise it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..checkpoints import Checkpoint
from ..contexts.flow import Calibrating, Loaded
from ..contexts.forecast import Forecast
from ..engine import in_thread, link
from ..errors import DataError, SettingError
from ..models.blocks.empty_model import text_config
from ..models.planning.effort import outlined_windows
from ..models.reading.tokenizer import load_tokenizer
from ..texts import (
    Corpus,
    Split,
    Windows,
    check_vocabulary,
    pack_windows,
    read_corpus,
    sample_documents,
    shared_documents,
    split,
    unused_builtin,
)

_KEYS = ("calibration", "healing", "heldout", "elsewhere")
# Of a long text, whole documents of so many characters per token that is asked for are tokenised:
# about sixteen times what the windows hold.
_CHARACTERS_PER_TOKEN = 64
# Reading, dividing and tokenising: the built-in texts, and a byte of other text.
_READ_SECONDS = 1.5
_BYTE_SECONDS = 3e-7
_SETTING = {
    "calibration": "windows",
    "healing": "healing_windows",
    "heldout": "heldout_windows",
    "elsewhere": "elsewhere_windows",
}


@link
async def calibrate(
    ctx: Loaded,
    *,
    data: str = "pydoc",
    heldout_data: str | None = None,
    elsewhere: str | None = None,
    windows: Annotated[int, Field(ge=1)] = 64,
    healing_windows: Annotated[int, Field(ge=1)] = 64,
    heldout_windows: Annotated[int, Field(ge=1)] = 16,
    elsewhere_windows: Annotated[int, Field(ge=1)] = 16,
    length: Annotated[int, Field(ge=2)] = 512,
    seed: int = 0,
) -> Calibrating:
    """Read the text and cut it into windows: to calibrate on, to heal on and to judge on.

    No text is in two parts. The fourth part, from elsewhere, is of a source that none of the
    others is from: a model made on one kind of text is judged on another too.

    Settings:
        data: a text file, a folder of text files, hf:DATASET[:CONFIG[:SPLIT]], or a built-in text:
            pydoc, the documentation every CPython carries; stdlib, the Python source of its
            library; readmes, the descriptions of the packages birdbone requires.
        heldout_data: text to judge on instead of a part of data.
        elsewhere: another source to judge on; the default is the first of stdlib, pydoc and
            readmes that is not used otherwise.
        windows, healing_windows, heldout_windows, elsewhere_windows: how many of each at most.
        length: tokens per window.
        seed: of the division into parts and the choice of windows.

    Raises:
        DataError: a source cannot be read or is too short, or two parts share text.
    """
    counts = (windows, healing_windows, heldout_windows, elsewhere_windows)
    limits = dict(zip(_KEYS, counts, strict=True))
    sources = _Sources(data, heldout_data, elsewhere)
    found = await in_thread(_read, ctx["checkpoint"], sources, limits, length, seed)
    for key, limit in limits.items():
        if found[key].num_windows < limit:
            warnings.warn(
                f"calibrate({_SETTING[key]}={limit}): the text gives only "
                f"{found[key].num_windows} windows of {length} tokens",
                stacklevel=2,
            )
    return {
        "calibration": found["calibration"],
        "healing": found["healing"],
        "heldout": found["heldout"],
        "elsewhere": found["elsewhere"],
        "metrics": {f"{key}_tokens": found[key].num_tokens for key in _KEYS},
    }


@dataclass(frozen=True)
class _Sources:
    """Where the parts are from, as the settings say it."""

    data: str
    heldout_data: str | None
    elsewhere: str | None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> _Sources:
        return cls(settings["data"], settings["heldout_data"], settings["elsewhere"])

    @property
    def other(self) -> str:
        """The source of the text from elsewhere."""
        return self.elsewhere or unused_builtin(name for name in self.used if name)

    @property
    def used(self) -> tuple[str, ...]:
        """The sources of all other parts."""
        return tuple(name for name in (self.data, self.heldout_data) if name is not None)


@calibrate.reading
def _texts(settings: Mapping[str, Any]) -> Mapping[str, str]:
    """The texts by their content, so that a file changed under the same name is another text."""
    sources = _Sources.of(settings)
    return {name: read_corpus(name).digest for name in sorted({*sources.used, sources.other})}


@calibrate.foresee
def _fits(ctx: Any, settings: Any) -> None:
    """Windows longer than the model's positions are refused before any text is read."""
    checkpoint: Checkpoint | None = ctx.get("checkpoint")
    if checkpoint is None:
        return
    positions = getattr(text_config(checkpoint), "max_position_embeddings", None)
    if positions is not None and settings["length"] > positions:
        raise SettingError(
            f"calibrate(length={settings['length']}): the model has {positions} positions; "
            f"set length to {positions} or less"
        )


def _read(
    checkpoint: Checkpoint, sources: _Sources, limits: Mapping[str, int], length: int, seed: int
) -> dict[str, Windows]:
    tokenizer = load_tokenizer(checkpoint)
    parts = _divide(sources.data, sources.heldout_data, seed)
    parts["elsewhere"] = _elsewhere(sources, parts, limits["elsewhere"] * length, seed)
    vocab_size = text_config(checkpoint).vocab_size
    found = {}
    for key, corpus in parts.items():
        text, characters = f"{corpus.name}, {key}", _CHARACTERS_PER_TOKEN * limits[key] * length
        documents = sample_documents(corpus.documents, characters, seed)
        found[key] = pack_windows(
            documents, tokenizer, length=length, limit=limits[key], text=text, seed=seed
        )
        check_vocabulary(found[key], vocab_size)
    return found


def _divide(data: str, heldout_data: str | None, seed: int) -> dict[str, Corpus]:
    """Documents by part, each under the name of the text they are from."""
    corpus = read_corpus(data)
    parts: Split = split(corpus, seed=seed)
    healing, heldout = parts.healing, Corpus(corpus.name, parts.heldout)
    if heldout_data is not None:
        heldout = read_corpus(heldout_data)
        healing += parts.heldout
        _check_apart("held-out text", heldout, Corpus(corpus.name, parts.calibration + healing))
    return {
        "calibration": Corpus(corpus.name, parts.calibration),
        "healing": Corpus(corpus.name, healing),
        "heldout": heldout,
    }


def _elsewhere(
    sources: _Sources, parts: Mapping[str, Corpus], num_tokens: int, seed: int
) -> Corpus:
    """Documents of a source that no other part is from.

    Of a built-in text, documents that stand in another part are left out; a text that the user
    named is refused for them.
    """
    corpus = read_corpus(sources.other)
    if sources.elsewhere is not None:
        for part in parts.values():
            _check_apart("text from elsewhere", corpus, part)
        return corpus
    chosen = sample_documents(corpus.documents, _CHARACTERS_PER_TOKEN * num_tokens, seed)
    used = [document for part in parts.values() for document in part.documents]
    shared = set(shared_documents(used, chosen))
    return Corpus(corpus.name, tuple(each for each in chosen if each not in shared))


def _check_apart(what: str, text: Corpus, other: Corpus) -> None:
    shared = shared_documents(other.documents, text.documents)
    if shared:
        raise DataError(
            f"{what} '{text.name}' shares {len(shared)} documents with '{other.name}', the first "
            f"beginning {shared[0][:40]!r}; judge by text that is used for nothing else"
        )


@calibrate.forecast
def _foretell(ctx: Any, settings: Any) -> Forecast:
    """As many windows as asked for, read or not."""
    first, adds, sources = 0, {}, _Sources.of(settings)
    for key in _KEYS:
        count = settings[_SETTING[key]]
        source = sources.other if key == "elsewhere" else sources.data
        adds[key] = outlined_windows(count, settings["length"], f"{source}, {key}", first)
        first += adds[key].num_tokens
    num_bytes = sum(_size_of(name) for name in {*sources.used, sources.other})
    return Forecast(adds=adds, seconds=_READ_SECONDS + _BYTE_SECONDS * num_bytes)


def _size_of(data: str) -> int:
    """Bytes of text on this machine; 0 where it is not known."""
    path = Path(data).expanduser()
    if path.is_file():
        return path.stat().st_size
    if data and path.is_dir():
        return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    return 0
