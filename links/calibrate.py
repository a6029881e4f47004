"""calibrate: read text, split it into parts without overlap, and tokenise it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..checkpoints import Checkpoint
from ..contexts.flow import Calibrating, Loaded, Partial
from ..contexts.forecast import Forecast
from ..engine import Settings, in_thread, link
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
# Characters tokenised per token asked for, in whole documents: about sixteen times what is needed.
_CHARACTERS_PER_TOKEN = 64
# To read, split and tokenise the built-in texts, and one byte of another text.
_READ_SECONDS = 1.5
_BYTE_SECONDS = 3e-7
_SETTING = {
    "calibration": "windows",
    "healing": "healing_windows",
    "heldout": "heldout_windows",
    "elsewhere": "elsewhere_windows",
}


class CalibrateSettings(Settings):
    """The settings of calibrate."""

    data: str = "pydoc"
    """A text file, a folder of text files, hf:DATASET[:CONFIG[:SPLIT]], or a built-in text: pydoc,
    the documentation of CPython; stdlib, the Python source of its library; readmes, the
    descriptions of the packages birdbone requires."""

    heldout_data: str | None = None
    """Source of the held-out windows; by default a part of data."""

    elsewhere: str | None = None
    """Another source to evaluate on; by default the first of stdlib, pydoc and readmes that is not
    used otherwise."""

    windows: Annotated[int, Field(ge=1)] = 64
    """Maximum number of calibration windows."""

    healing_windows: Annotated[int, Field(ge=1)] = 64
    """Maximum number of windows to train on."""

    heldout_windows: Annotated[int, Field(ge=1)] = 16
    """Maximum number of held-out windows, which are evaluated on."""

    elsewhere_windows: Annotated[int, Field(ge=1)] = 16
    """Maximum number of windows from the other source."""

    length: Annotated[int, Field(ge=2)] = 512
    """Tokens per window."""

    seed: int = 0
    """Seed of the split into parts and of the choice of windows."""

    @property
    def limits(self) -> dict[str, int]:
        """The maximum number of windows, by context key."""
        counts = (
            self.windows,
            self.healing_windows,
            self.heldout_windows,
            self.elsewhere_windows,
        )
        return dict(zip(_KEYS, counts, strict=True))

    @property
    def other(self) -> str:
        """The source of the text from elsewhere."""
        return self.elsewhere or unused_builtin(name for name in self.used if name)

    @property
    def used(self) -> tuple[str, ...]:
        """The sources of all other parts."""
        return tuple(name for name in (self.data, self.heldout_data) if name is not None)


@link(CalibrateSettings)
async def calibrate(ctx: Loaded, settings: CalibrateSettings) -> Calibrating:
    """Read text and cut it into windows: to calibrate on, to heal on and to evaluate on.

    No text is in two parts. The fourth part, elsewhere, is from a source that no other part is
    from: a model compressed with one kind of text is evaluated on another kind too.

    Raises:
        DataError: a source cannot be read or is too short, or two parts share text.
    """
    found = await in_thread(_read, ctx["checkpoint"], settings)
    for key, limit in settings.limits.items():
        if found[key].num_windows < limit:
            warnings.warn(
                f"calibrate({_SETTING[key]}={limit}): the text gives only "
                f"{found[key].num_windows} windows of {settings.length} tokens",
                stacklevel=2,
            )
    return {
        "calibration": found["calibration"],
        "healing": found["healing"],
        "heldout": found["heldout"],
        "elsewhere": found["elsewhere"],
        "metrics": {f"{key}_tokens": found[key].num_tokens for key in _KEYS},
    }


@calibrate.reads
def _reads(settings: CalibrateSettings) -> Mapping[str, str]:
    """The digests of the texts, so that a file changed under the same name is another text."""
    return {name: read_corpus(name).digest for name in sorted({*settings.used, settings.other})}


@calibrate.check
def _check(ctx: Partial, settings: CalibrateSettings) -> None:
    """Windows longer than the model's maximum number of positions."""
    if "checkpoint" not in ctx:
        return
    positions = getattr(text_config(ctx["checkpoint"]), "max_position_embeddings", None)
    if positions is not None and settings.length > positions:
        raise SettingError(
            f"calibrate(length={settings.length}): the model has {positions} positions; "
            f"set length to {positions} or less"
        )


def _read(checkpoint: Checkpoint, settings: CalibrateSettings) -> dict[str, Windows]:
    tokenizer = load_tokenizer(checkpoint)
    limits, length, seed = settings.limits, settings.length, settings.seed
    parts = _divide(settings.data, settings.heldout_data, seed)
    parts["elsewhere"] = _elsewhere(settings, parts)
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
    """Documents by part, with the name of the text they are from."""
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


def _elsewhere(settings: CalibrateSettings, parts: Mapping[str, Corpus]) -> Corpus:
    """Documents of a source that no other part is from.

    Documents that are in another part too are left out of a built-in text; a text that the user
    named is refused if it has any.
    """
    corpus = read_corpus(settings.other)
    if settings.elsewhere is not None:
        for part in parts.values():
            _check_apart("text from elsewhere", corpus, part)
        return corpus
    num_tokens = settings.elsewhere_windows * settings.length
    chosen = sample_documents(corpus.documents, _CHARACTERS_PER_TOKEN * num_tokens, settings.seed)
    used = [document for part in parts.values() for document in part.documents]
    shared = set(shared_documents(used, chosen))
    return Corpus(corpus.name, tuple(each for each in chosen if each not in shared))


def _check_apart(what: str, text: Corpus, other: Corpus) -> None:
    shared = shared_documents(other.documents, text.documents)
    if shared:
        raise DataError(
            f"{what} '{text.name}' shares {len(shared)} documents with '{other.name}', the first "
            f"beginning {shared[0][:40]!r}; evaluate on text that is used for nothing else"
        )


@calibrate.forecast
def _forecast(ctx: Loaded, settings: CalibrateSettings) -> Forecast:
    """The maximum number of windows; how many the text yields is unknown before it is read."""
    first, adds = 0, {}
    for key, count in settings.limits.items():
        source = settings.other if key == "elsewhere" else settings.data
        adds[key] = outlined_windows(count, settings.length, f"{source}, {key}", first)
        first += adds[key].num_tokens
    num_bytes = sum(_size_of(name) for name in {*settings.used, settings.other})
    return Forecast(adds=adds, seconds=_READ_SECONDS + _BYTE_SECONDS * num_bytes)


def _size_of(data: str) -> int:
    """Bytes of a text on this machine; 0 if unknown."""
    path = Path(data).expanduser()
    if path.is_file():
        return path.stat().st_size
    if data and path.is_dir():
        return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    return 0
