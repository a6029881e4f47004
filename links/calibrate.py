"""calibrate: read text, divide it so that no part overlaps another, and tokenise it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..checkpoints import Checkpoint
from ..contexts.flow import Loaded, Texts
from ..contexts.forecast import Forecast
from ..engine import in_thread, link
from ..errors import DataError, SettingError
from ..models.skeleton import text_config
from ..models.tokenizer import load_tokenizer
from ..texts import (
    Split,
    Windows,
    check_vocabulary,
    pack_windows,
    read_corpus,
    shared_documents,
    split,
)
from .effort import outlined_windows

_KEYS = ("calibration", "healing", "heldout")
# Reading, dividing and tokenising: the documentation of CPython, and a byte of other text.
_READ_SECONDS = 0.5
_BYTE_SECONDS = 3e-7
_SETTING = {"calibration": "windows", "healing": "healing_windows", "heldout": "heldout_windows"}


@link
async def calibrate(
    ctx: Loaded,
    *,
    data: str = "pydoc",
    heldout_data: str | None = None,
    windows: Annotated[int, Field(ge=1)] = 64,
    healing_windows: Annotated[int, Field(ge=1)] = 64,
    heldout_windows: Annotated[int, Field(ge=1)] = 16,
    length: Annotated[int, Field(ge=2)] = 512,
    seed: int = 0,
) -> Texts:
    """Bring the text: windows to calibrate on, to heal on and to judge by, none overlapping.

    Settings:
        data: a text file, a folder of text files, hf:DATASET[:CONFIG[:SPLIT]], or pydoc, the
            documentation every CPython carries.
        heldout_data: text to judge by from elsewhere; by default a part of data.
        windows, healing_windows, heldout_windows: how many of each at most.
        length: tokens per window.
        seed: of the division into parts and the choice of windows.
    """
    limits = dict(zip(_KEYS, (windows, healing_windows, heldout_windows), strict=True))
    found = await in_thread(_read, ctx["checkpoint"], data, heldout_data, limits, length, seed)
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
        "metrics": {f"{key}_tokens": found[key].num_tokens for key in _KEYS},
    }


@calibrate.reading
def _texts(settings: Mapping[str, Any]) -> Mapping[str, str]:
    """The texts by their content, so that a file changed under the same name is another text."""
    sources = {settings["data"], settings["heldout_data"]} - {None}
    return {source: read_corpus(source).digest for source in sorted(sources)}


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
    checkpoint: Checkpoint,
    data: str,
    heldout_data: str | None,
    limits: dict[str, int],
    length: int,
    seed: int,
) -> dict[str, Windows]:
    tokenizer = load_tokenizer(checkpoint)
    parts = _divide(data, heldout_data, seed)
    vocab_size = text_config(checkpoint).vocab_size
    found = {}
    for key, (name, documents) in parts.items():
        text = f"{name}, {key}"
        found[key] = pack_windows(
            documents, tokenizer, length=length, limit=limits[key], text=text, seed=seed
        )
        check_vocabulary(found[key], vocab_size)
    return found


def _divide(
    data: str, heldout_data: str | None, seed: int
) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Documents by part, each with the name of the text they are from."""
    corpus = read_corpus(data)
    parts: Split = split(corpus, seed=seed)
    if heldout_data is None:
        judged, heldout = corpus.name, parts.heldout
        healing = parts.healing
    else:
        other = read_corpus(heldout_data)
        judged, heldout = other.name, other.documents
        healing = parts.healing + parts.heldout
        shared = shared_documents(parts.calibration + healing, heldout)
        if shared:
            raise DataError(
                f"held-out text '{other.name}' shares {len(shared)} documents with "
                f"'{corpus.name}', the first beginning {shared[0][:40]!r}; judge by text that is "
                f"not trained on"
            )
    return {
        "calibration": (corpus.name, parts.calibration),
        "healing": (corpus.name, healing),
        "heldout": (judged, heldout),
    }


@calibrate.forecast
def _foretell(ctx: Any, settings: Any) -> Forecast:
    """As many windows as asked for, read or not."""
    first, adds = 0, {}
    for key in _KEYS:
        count = settings[_SETTING[key]]
        adds[key] = outlined_windows(count, settings["length"], f"{settings['data']}, {key}", first)
        first += adds[key].num_tokens
    num_bytes = _size_of(settings["data"]) + _size_of(settings["heldout_data"])
    return Forecast(adds=adds, seconds=_READ_SECONDS + _BYTE_SECONDS * num_bytes)


def _size_of(data: str | None) -> int:
    """Bytes of text on this machine; 0 where it is not known."""
    path = Path(data or "").expanduser()
    if data and path.is_file():
        return path.stat().st_size
    if data and path.is_dir():
        return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    return 0
