"""The record of one link in the history."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .cost import Cost


@dataclass(frozen=True)
class Step:
    """One finished link.

    Attributes:
        link: the link's name.
        settings: all settings it ran with, defaults included.
        cost: wall time and peak memory.
        metrics: what the link measured, by name: numbers, text, flags, or lists of numbers for
            repeated measurements, or numbers by layer.
        checkpoint: id of the model after the link; None if there was no model yet.
        within: name of the link that ran this one as part of itself, and whose cost includes its
            cost; None for a link of the chain itself.
    """

    link: str
    settings: Mapping[str, Any]
    cost: Cost
    metrics: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    within: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the record, JSON-compatible; settings that JSON cannot represent become text."""
        return {
            "link": self.link,
            "settings": {name: _plain(value) for name, value in self.settings.items()},
            "seconds": self.cost.seconds,
            "peak_bytes": self.cost.peak_bytes,
            "peak_of": self.cost.peak_of,
            "metrics": {name: _plain(value) for name, value in self.metrics.items()},
            "checkpoint": self.checkpoint,
            "within": self.within,
        }


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON cannot represent it
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)
