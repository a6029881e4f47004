"""A run on several ranks, as the engine sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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
from ..errors import ChainError, DataError, LinkError, RankError

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
def shared_run(version_of_ours: str, settings: Any) -> Iterator[None]:
    """A run of all ranks: they begin with equal settings, and end together or by one's failure.

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
        require_same({"birdbone": version_of_ours, **versions, "the chain": _spelled(settings)})
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
                f"{size()} ranks cannot divide the {count} windows of the {name} text; start at "
                f"most {count} ranks, or give more windows"
            )


def check_peers() -> None:
    """Raise if another rank is lost.

    Raises:
        RankError: with the rank and the reason.
    """
    group = joined_group()
    if group is not None:
        group.watch.check()


def lost_rank() -> str | None:
    """Why the ranks cannot go on; None where none is lost."""
    group = joined_group()
    if group is None or group.watch.lost is None:
        return None
    return f"link '{group.watch.link}' failed: {group.watch.lost}"


def works_on(link: str) -> None:
    """Note the running link for what is said if its rank is lost."""
    group = joined_group()
    if group is not None:
        group.watch.link = link


def _spelled(settings: Any) -> str:
    return json.dumps(settings, default=lambda value: type(value).__name__, sort_keys=True)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _reason(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, LinkError) else error
    if isinstance(cause, RankError):
        return cause.reason
    text = str(error) or type(error).__name__
    return (
        text.removeprefix(f"link '{error.link}' failed: ") if isinstance(error, LinkError) else text
    )
