"""What a middleware remembers of one run: the links that are running, stored in the run's notes.

The hooks of an inner chain's links are called between ``before`` and ``after`` of the outer link,
and branches of one run may overlap. A link is therefore closed by identity, the most recent one
first. A link that is closed without having been opened (another middleware refused it in
``before``, or only ``after`` is registered) is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Generic, TypeVar, cast

from ..contexts.steps import Step
from ..engine import spelled_settings
from ..engine.naming import name_of

RunNotes = MutableMapping[str, Any]
T = TypeVar("T")
S = TypeVar("S")


class OpenLinks(Generic[T]):
    """The links that have started and not ended, each with a value of the middleware."""

    def __init__(self) -> None:
        self._entries: list[tuple[Any, T]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T]:
        return (value for _, value in self._entries)

    def open(self, link: Any, value: T) -> None:
        """Add a link that started."""
        self._entries.append((link, value))

    def close(self, link: Any) -> T | None:
        """Remove a link and return its value; None if it was never opened."""
        for place in reversed(range(len(self._entries))):
            if self._entries[place][0] is link:
                return self._entries.pop(place)[1]
        return None


def of_run(owner: object, notes: RunNotes, make: Callable[[], S]) -> S:
    """Return the state ``owner`` keeps for this run, created with ``make`` on first use.

    Every middleware object has its own state.
    """
    # setdefault is atomic under the interpreter lock, so worker threads may call this too.
    return cast(S, notes.setdefault(f"birdbone.{type(owner).__name__}.{id(owner)}", make()))


def settings_of(link: Any) -> Mapping[str, Any]:
    """Return a link's settings, chains among them written out; empty for other callables."""
    return spelled_settings(link)


def logged_metrics(step: Step) -> dict[str, Any]:
    """The metrics of a link for a log, without those that hold one figure per layer."""
    return {key: value for key, value in step.metrics.items() if not isinstance(value, Mapping)}


def newest_step(link: Any, ctx: Mapping[str, Any], result: Any) -> Step | None:
    """Return the history record this link added; None if it added none (a function, a chain)."""
    if not hasattr(link, "factory") or not isinstance(result, Mapping):
        return None
    history = result.get("history", ())
    if len(history) <= len(ctx.get("history", ())) or history[-1].link != name_of(link):
        return None
    return cast(Step, history[-1])
