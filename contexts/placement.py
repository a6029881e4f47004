"""The device of a run, as the engine and middleware see it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from ..checkpoints.devices import (
    allocated_bytes,
    counts_bytes,
    index_of,
    is_out_of_memory,
    release_unused,
)
from ..checkpoints.placement import Placement, current_device, placed

__all__ = [
    "Placement",
    "counted_device",
    "free_unused",
    "held_on_device",
    "is_out_of_memory",
    "placed_by",
]


def placed_by(ctx: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Put the placement that a context holds in force; without one, nothing changes."""
    return placed(ctx.get("placement"))


def counted_device() -> str | None:
    """The device that computes, with its index, if torch counts its bytes; None for the CPU."""
    device = current_device()
    if not counts_bytes(device):
        return None
    return f"{device.type}:{index_of(device)}"


def held_on_device() -> int:
    """Bytes that tensors take on the device that computes; 0 for the CPU."""
    device = current_device()
    return allocated_bytes(device) if counts_bytes(device) else 0


def free_unused() -> None:
    """Return memory that torch has reserved but does not use to the device that computes."""
    release_unused(current_device())
