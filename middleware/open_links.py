"""What a middleware object remembers of one run: the links open in it, kept in the run's notes.

The hooks of an inner chain's links fall between ``before`` and ``after`` of the link that holds
them, and branches of one run may be open side by side, so a link is closed by identity, the newest
first. A link closed without having been opened (its ``before`` was refused by other middleware, or
only ``after`` was asked for) is no fault: there is nothing to tell of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Generic, TypeVar, cast

from ..contexts.steps import Step
from ..engine import spelled_settings

Notes = MutableMapping[str, Any]
T = TypeVar("T")
S = TypeVar("S")


class OpenLinks(Generic[T]):
    """The links that have begun and not ended, each with a value of the watcher's own."""

    def __init__(self) -> None:
        self._entries: list[tuple[Any, T]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T]:
        return (value for _, value in self._entries)

    def open(self, link: Any, value: T) -> None:
        """Remember that a link began."""
        self._entries.append((link, value))

    def close(self, link: Any) -> T | None:
        """Forget a link and return the value it was opened with; None if it never was."""
        for place in reversed(range(len(self._entries))):
            if self._entries[place][0] is link:
                return self._entries.pop(place)[1]
        return None


def of_run(owner: object, notes: Notes, make: Callable[[], S]) -> S:
    """What ``owner`` keeps of this run, made on first asking; never shared with another object."""
    # setdefault is one step under the interpreter lock, so worker threads may ask too.
    return cast(S, notes.setdefault(f"birdbone.{type(owner).__name__}.{id(owner)}", make()))


def name_of(link: Any) -> str:
    """A link's name, whatever kind of callable it is."""
    return str(getattr(link, "__name__", type(link).__name__))


def settings_of(link: Any) -> Mapping[str, Any]:
    """A link's settings, chains among them spelled out; none for a plain function or a chain."""
    return spelled_settings(link)


def newest_step(link: Any, ctx: Mapping[str, Any], result: Any) -> Step | None:
    """The history record this link added, None where it adds none (a plain function, a chain)."""
    if not hasattr(link, "factory") or not isinstance(result, Mapping):
        return None
    history = result.get("history", ())
    if len(history) <= len(ctx.get("history", ())) or history[-1].link != name_of(link):
        return None
    return cast(Step, history[-1])
