"""Where a run computes: chosen by the user, in force while a link runs.

`load(device=...)` leaves the choice in the context under ``placement``; the engine puts it in force
for every link. Code that computes asks `current_device`, and is given no device from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import torch

from .devices import named_device
from .ranks import device_of_rank

Activations = Literal["auto", "host", "device"]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Placement:
    """Where a run computes.

    Attributes:
        device: a name such as ``cuda:1``; ``auto`` for the accelerator, or the CPU without one.
        activations: where hidden states rest between blocks: on the ``device``, in the memory of
            the ``host``, or where there is room (``auto``).
        precision: of matrix products in passes that choose weights, on a CPU; ``auto`` is bfloat16
            where the processor multiplies it faster.
    """

    device: str = "auto"
    activations: Activations = "auto"
    precision: Precision = "auto"


_current: ContextVar[Placement] = ContextVar("placement", default=Placement())  # noqa: B039


def current_placement() -> Placement:
    """The placement in force."""
    return _current.get()


def current_device() -> torch.device:
    """The device to compute on; on several ranks each has its own.

    Raises:
        SettingError: this machine has no device of the name that was chosen, or none for this rank.
    """
    return device_of_rank(named_device(current_placement().device))


@contextmanager
def on_device(name: str | None) -> Iterator[None]:
    """Compute on the device of this name for as long as the context lasts; None changes nothing.

    Raises:
        SettingError: this machine has no such device.
    """
    if name is not None:
        named_device(name)
    with placed(None if name is None else Placement(name)):
        yield


@contextmanager
def placed(placement: Placement | None) -> Iterator[None]:
    """Put a placement in force for as long as the context lasts; None changes nothing."""
    if placement is None:
        yield
        return
    token = _current.set(placement)
    try:
        yield
    finally:
        _current.reset(token)
