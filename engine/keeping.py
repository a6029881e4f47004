"""What a store is to the engine: where links leave their outcomes and their work in progress."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from ..contexts.steps import Step

if TYPE_CHECKING:
    from .factories import Link


class Unfinished(Protocol):
    """A running link's own place for work in progress, gone once the link's outcome is kept."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and facts last saved under the very same key; None where there are none."""

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep tensors and facts that JSON knows instead of the last; whole or not at all."""


@dataclass(frozen=True)
class Outcome:
    """What a link that ran leaves.

    Attributes:
        added: what goes into the context.
        steps: its record, last; before it those of links it ran itself.
    """

    added: Mapping[str, Any]
    steps: tuple[Step, ...]


class Place(Unfinished, Protocol):
    """Where a store keeps one link's outcome: known by the link, its settings and what it read."""

    def replay(self) -> Outcome | None:
        """What the link left when it ran on the same; None where it has to run."""

    def publish(self, outcome: Outcome) -> Outcome:
        """Keep what the link left; returns it as `replay` will."""


class Store(Protocol):
    """Keeps what links leave; all its methods, and its places', are called from worker threads."""

    def place(self, step: Link, ctx: Mapping[str, Any]) -> Place | None:
        """The place of a link on a context; None for a link that is to run each time."""


class _Nowhere:
    """Where work in progress goes in a run without a store."""

    def load(self) -> None:
        """There never is any."""

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep nothing."""


def unfinished() -> Unfinished:
    """The running link's place for work in progress; it keeps nothing where the run has no store.

    May be asked for in the link's coroutine or its worker thread. How often to save is the link's
    to decide; a link that goes on from what it loads must end in the same bytes as an unbroken one.
    """
    return current_place.get() or _Nowhere()


current_store: ContextVar[Store | None] = ContextVar("store", default=None)
current_place: ContextVar[Unfinished | None] = ContextVar("unfinished", default=None)
