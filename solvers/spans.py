"""A walk over columns at several levels, so that what columns do to later ones goes in products.

A span of columns is split into smaller ones, down to the last size; once one is done, what it
changed is passed on to the rest of its parent, and to no more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Walked(Protocol):
    """What is done on the way."""

    def settle_columns(self, start: int, stop: int) -> None:
        """Settle columns ``start`` to ``stop``, every earlier change being applied to them."""

    def pass_on(self, first: int, last: int, stop: int) -> None:
        """Apply to columns ``last`` to ``stop`` what was changed in ``first`` to ``last``."""


def walk(walked: Walked, start: int, stop: int, sizes: Sequence[int]) -> None:
    """Settle [start, stop) in spans of falling ``sizes``."""
    if not sizes:
        walked.settle_columns(start, stop)
        return
    for first in range(start, stop, sizes[0]):
        last = min(first + sizes[0], stop)
        walk(walked, first, last, sizes[1:])
        if last < stop:
            walked.pass_on(first, last, stop)
