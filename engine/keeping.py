"""The store as the engine sees it: where links keep outcomes and work in progress."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from ..contexts.steps import Step

if TYPE_CHECKING:
    from .bound import Link


class Unfinished(Protocol):
    """A running link's place for work in progress; deleted once the link's outcome is kept."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and facts last saved under the same key; None if there are none."""

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replace the saved tensors and facts (JSON types), atomically."""


@dataclass(frozen=True)
class Outcome:
    """What a link that ran leaves.

    Attributes:
        added: the keys it adds to the context.
        steps: its record, last; before it those of the links it ran itself.
    """

    added: Mapping[str, Any]
    steps: tuple[Step, ...]


class Place(Unfinished, Protocol):
    """Where a store keeps one link's outcome, identified by link, settings and what it read."""

    def replay(self) -> Outcome | None:
        """The outcome of an earlier run on the same input; None if the link has to run."""

    def publish(self, outcome: Outcome) -> Outcome:
        """Keep an outcome; returns it as `replay` will.

        On several ranks, also called with None on those that have no outcome of their own.
        """


class Store(Protocol):
    """Keeps outcomes of links; its methods and those of its places run in worker threads."""

    def place(self, step: Link[Any], ctx: Mapping[str, Any]) -> Place | None:
        """The place of a link on a context; None for a link that must run each time."""


class _Nowhere:
    """The place for work in progress in a run without a store: it is false."""

    def __bool__(self) -> bool:
        return False

    def load(self) -> None:
        """There is never any."""

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep nothing."""


def unfinished() -> Unfinished:
    """The running link's place for work in progress; false and keeps nothing without a store.

    May be called in the link's coroutine or its worker thread. How often to save is up to the link;
    one that resumes from what it loads must produce the same bytes as an uninterrupted run.
    """
    return current_place.get() or _Nowhere()


current_store: ContextVar[Store | None] = ContextVar("store", default=None)
current_place: ContextVar[Unfinished | None] = ContextVar("unfinished", default=None)
