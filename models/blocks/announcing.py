"""Types of the functions that receive the progress of long computations."""

from __future__ import annotations

from collections.abc import Callable

Announce = Callable[[str, int, int | None], None]
"""Receives a label, the number of finished units, and their total if it is known."""

AnnounceCount = Callable[[int, int], None]
"""Receives the number of finished units and their total."""

AnnounceStep = Callable[[int, int, float], None]
"""Receives the number of training steps taken, their total, and the loss of the last one."""
