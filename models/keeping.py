"""Keeping the place of a long training: often enough to lose little, and at little cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

# Of the time that is worked; so that a large model is not written out at every step.
_SHARE = 0.05


class Unfinished(Protocol):
    """A place for work in progress that outlives the process."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved last, tensors and facts; None where nothing was."""

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep this instead of what was saved last."""


class Keeping:
    """Work in progress kept in a place, or nowhere; saving takes a share of the time at most.

    How often that is depends on the machine, so what is saved must lead to the same bytes wherever
    the work was broken off.

    Args:
        share: a twentieth where none is given.
        pause_seconds: at least this long lies between two saves.
    """

    def __init__(
        self,
        place: Unfinished | None = None,
        *,
        share: float | None = None,
        pause_seconds: float = 0.0,
    ) -> None:
        self._place = place
        self._share, self._pause_seconds = _SHARE if share is None else share, pause_seconds
        self._saved_at, self._took = time.monotonic(), 0.0

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was kept when the work was broken off; None where it begins."""
        return None if self._place is None else self._place.load()

    def save(self, made: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]]) -> None:
        """Keep what ``made`` gives, tensors and facts, if enough was done since the last time."""
        start = time.monotonic()
        worked = start - self._saved_at
        if self._place is None or worked < self._pause_seconds or worked * self._share < self._took:
            return
        self._place.save(*made())
        self._saved_at = time.monotonic()
        self._took = self._saved_at - start
