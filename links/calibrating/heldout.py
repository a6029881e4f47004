"""Held-out windows alone, for commands that only score."""

from __future__ import annotations

from ...texts import DataSetting, Tokenizer, Windows, distinct_across, mixed_windows, mixture_name
from .parts import parts_of_data
from .sources import PartSources, read_sources


def heldout_windows(
    data: DataSetting,
    heldout_data: DataSetting | None,
    tokenizer: Tokenizer,
    *,
    length: int,
    limit: int,
) -> Windows:
    """Return the held-out windows of `calibrate`, or windows of all of ``heldout_data``.

    Raises:
        DataError: a source cannot be read, or is too short.
        SettingError: one is spelled wrong.
    """
    sources = PartSources.parse(data, heldout_data, elsewhere="pydoc")  # elsewhere is not read
    if sources.heldout is not None:
        found = distinct_across(read_sources(sources.heldout, tokenizer))
    else:
        found = parts_of_data(sources, tokenizer, length=length, seed=0)["heldout"]
    windows = mixed_windows(found, tokenizer, length=length, limit=limit, text="heldout", seed=0)
    return Windows(windows.tokens, mixture_name(found)) if heldout_data else windows
