"""Milder settings of a chain, with which it needs less memory."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import combinations
from typing import Any

from ...engine import Chain
from ...engine.rebuilding import links_with_settings
from ...errors import BirdboneError
from ..overrides import configure

_FEWEST_WINDOWS = 1
_COMMON_WINDOWS = 256  # halved from, where the number follows the model's widths


def single_links(chain: Chain) -> Iterator[Any]:
    """The links in running order, with those of nested chains in their place."""
    for each in chain.links:
        if isinstance(each, Chain):
            yield from single_links(each)
        else:
            yield each


def milder(chain: Chain) -> Iterator[tuple[Mapping[str, Any], Chain]]:
    """Changes of settings and the resulting chain, the mildest first.

    First batch sizes of one, which cost only time; then no measurement of the original model; then
    neurons chosen without gradients; then these together, and half the windows, again and again.
    """
    for changes in _changes(chain):
        with suppress(BirdboneError):  # a change that a link refuses does not help
            yield changes, configure(chain, changes)


def _changes(chain: Chain) -> Iterator[dict[str, Any]]:
    links = {each.__name__: each for each in links_with_settings(chain)}
    single = {
        f"{name}.batch_size": 1
        for name, each in links.items()
        if getattr(each.settings, "batch_size", 1) > 1
    }
    alone = {f"{name}.compare": False for name in links if name == "save"}
    local = {
        f"{name}.choice": "error"
        for name, each in links.items()
        if name == "prune" and (each.settings.pattern, each.settings.choice) == ("neurons", "loss")
    }
    given: list[dict[str, Any]] = [changes for changes in (single, alone, local) if changes]
    for count in range(1, len(given) + 1):
        for several in combinations(given, count):
            yield dict(ChainMap(*several))
    every = dict(ChainMap(*given))
    if "calibrate" in links:
        windows = int(links["calibrate"].settings.windows or _COMMON_WINDOWS)
        while windows > _FEWEST_WINDOWS:
            windows //= 2
            yield {**every, "calibrate.windows": windows}
