"""Breaking a training off and going on, without a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


class Stopped(Exception):
    """Raised by a test to break off a training."""


class Place:
    """Keeps work in progress in memory, as it was when it was saved."""

    def __init__(self) -> None:
        self.kept: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved last."""
        return self.kept

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep copies."""
        copied = {key: list(v) if isinstance(v, list) else v for key, v in facts.items()}
        self.kept = {name: value.clone() for name, value in tensors.items()}, copied


def stop_at(done: int) -> Callable[..., None]:
    """An announce that breaks off once so much is done."""

    def announce(so_far: int, total: int, loss: float = 0.0) -> None:
        if so_far == done:
            raise Stopped

    return announce


def stop_healing_at(done: int, heard: list[int]) -> Callable[..., None]:
    """An announce of `heal` that breaks off the first time so much is done; ``heard`` collects."""

    def announce(
        label: str, so_far: int, total: int | None = None, loss: float | None = None
    ) -> None:
        if label.startswith("healing"):
            heard.append(so_far)
            if so_far == done and heard.count(done) == 1:
                raise Stopped

    return announce
