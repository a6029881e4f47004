"""A run on several ranks, as the engine sees it."""

from __future__ import annotations

import json
from asyncio import CancelledError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from ..checkpoints.rank_group import awaited, joined_group, stopping
from ..checkpoints.ranks import (
    alone,
    exchanged,
    first_tells,
    from_first,
    is_first,
    sendable,
    size,
    start,
)
from ..errors import Cancelled, ChainError, DataError, LinkError, RankError

__all__ = [
    "alone",
    "awaited",
    "check_peers",
    "check_windows",
    "exchanged",
    "first_tells",
    "from_first",
    "is_first",
    "lost_rank",
    "require_same",
    "sendable",
    "shared_run",
    "size",
    "start",
    "stopping",
    "works_on",
]

_LIBRARIES = ("torch", "transformers", "safetensors", "numpy")


@contextmanager
def shared_run(version_of_ours: str, links: Sequence[Any]) -> Iterator[None]:
    """A run of all ranks: they begin with equal settings, and end together or by one's failure.

    Args:
        links: as plain data: the name of each, or a mapping from it to the settings.

    Raises:
        ChainError: the ranks were started with other settings or versions.
    """
    group = joined_group()
    if size() == 1 or group is None:
        yield
        return
    group.watch.running(True)
    try:
        versions = {name: version(name) for name in _LIBRARIES}
        require_same({"birdbone": version_of_ours, **versions, **_flat(links)})
        yield
        exchanged(None)
    except BaseException as error:
        group.watch.fail(_reason(error))
        raise
    group.watch.running(False)


def require_same(found: Mapping[str, Any], of: str = "") -> None:
    """Check that all ranks have equal values.

    Args:
        of: where they come from.

    Raises:
        ChainError: with the first name that differs, and its values.
    """
    every = exchanged(dict(found))
    for place, other in enumerate(every):
        for name, value in every[0].items():
            if other.get(name) != value:
                raise ChainError(
                    f"rank {place} differs from rank 0 in {name}{of}: {_short(other.get(name))} "
                    f"instead of {_short(value)}; start all ranks with the same files, settings "
                    f"and versions"
                )


def check_windows(ctx: Mapping[str, Any], *names: str) -> None:
    """Check that texts of a context, by their keys, have a window for each rank.

    Raises:
        DataError: one has fewer.
    """
    for name in names:
        count = getattr(ctx.get(name), "num_windows", None)
        if count is not None and count < size():
            raise DataError(
                f"{size()} ranks cannot divide the windows of the {name} text, {count} in all; "
                f"start fewer ranks, or give more windows"
            )


def check_peers() -> None:
    """Raise if another rank is lost.

    Raises:
        RankError: with the rank and the reason.
    """
    group = joined_group()
    if group is not None:
        group.watch.check()


def lost_rank(*, terminated: bool) -> str | None:
    """The running link and the rank that is gone; None where none is.

    Args:
        terminated: this process was told to end, as torchrun does if a rank died.
    """
    group = joined_group()
    if group is None:
        return None
    if terminated:
        group.watch.await_silence()
    if group.watch.lost is None or group.watch.lost.failed:
        return None
    return f"link '{group.watch.link}' failed: {group.watch.lost}"


def works_on(link: str) -> None:
    """Note the running link for what is said if its rank is lost."""
    group = joined_group()
    if group is not None:
        group.watch.link = link


def _flat(links: Sequence[Any]) -> dict[str, str]:
    """Every setting of every link by name, as text, and the names of the links."""
    parts = [each if isinstance(each, dict) else {str(each): None} for each in links]
    found = {"the links": _spelled([list(each) for each in parts])}
    for place, part in enumerate(parts, 1):
        for name, settings in part.items():
            named = settings if isinstance(settings, dict) else {"links": settings}
            found |= {f"{name}.{key} (link {place})": _spelled(v) for key, v in named.items()}
    return found


def _spelled(value: Any) -> str:
    return json.dumps(value, default=lambda value: type(value).__name__, sort_keys=True)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _reason(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, LinkError) else error
    if isinstance(cause, CancelledError | Cancelled | KeyboardInterrupt):
        return "was stopped"
    if isinstance(cause, RankError):
        return cause.reason
    text = str(error) or type(error).__name__
    return (
        text.removeprefix(f"link '{error.link}' failed: ") if isinstance(error, LinkError) else text
    )
