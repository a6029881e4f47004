"""Cache of sources: the preflight, the cache key and the run read each source only once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from .corpus import RawText

_MOST_CHARACTERS = 64_000_000

_held: OrderedDict[str, tuple[object, RawText]] = OrderedDict()
_lock = Lock()


def remembered(source: str, stamp: object, read: Callable[[], RawText]) -> RawText:
    """Return the cached text of a source if its stamp is unchanged, else that of `read()`.

    The most recently used sources are cached, up to 64 million characters in all.
    """
    with _lock:
        known = _held.get(source)
        if known is not None and known[0] == stamp:
            _held.move_to_end(source)
            return known[1]
    found = read()
    with _lock:
        _held[source] = stamp, found
        _held.move_to_end(source)
        while _held and sum(text.num_characters for _, text in _held.values()) > _MOST_CHARACTERS:
            _held.popitem(last=False)
    return found


def forget() -> None:
    """Empty the cache."""
    with _lock:
        _held.clear()
