"""Sizes and durations as text."""

from __future__ import annotations

_UNKNOWN = "–"


def in_bytes(count: float) -> str:
    """A size in decimal units: 1 MB is 1,000,000 bytes, as disks and files are measured."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def in_time(seconds: float | None) -> str:
    """A duration in seconds, minutes or hours, whichever fits; a dash for None."""
    if seconds is None:
        return _UNKNOWN
    if 0 < seconds < 0.1:
        return "< 0.1 s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
