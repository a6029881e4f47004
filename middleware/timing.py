"""Timing: the wall time of each link as it ends, and the total at the end of the run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..contexts.steps import Step
from ..engine.naming import name_of
from .open_links import OpenLinks, RunNotes, of_run


@dataclass
class _Clock:
    """When a run and each of its running links started, in `time.perf_counter` seconds.

    ``replayed``: by id of the link, the seconds it took when it originally ran.
    """

    start: float = field(default_factory=time.perf_counter)
    replayed: dict[int, float] = field(default_factory=dict)
    links: OpenLinks[float] = field(default_factory=OpenLinks)


class Timing:
    """Writes the wall time of each link in seconds, those of inner chains indented, and the total.

    On a plain ``modulink.Chain`` there is no total and no line for a failed link, because that
    runtime does not report them to middleware.

    Args:
        write: receives each line without a line break; default: standard error. The same numbers
            are in ``ctx["history"]``.
    """

    def __init__(self, *, write: Callable[[str], None] | None = None) -> None:
        self._write = write if write is not None else to_stderr

    async def before(self, link: Any, ctx: Mapping[str, Any], mwctx: RunNotes) -> None:
        """Start the link's clock."""
        of_run(self, mwctx, _Clock).links.open(link, time.perf_counter())

    async def replayed(
        self, link: Any, ctx: Mapping[str, Any], step: Step, mwctx: RunNotes
    ) -> None:
        """Record that the link's outcome was read from a run folder, to be stated in its line."""
        of_run(self, mwctx, _Clock).replayed[id(link)] = step.cost.seconds

    async def after(self, link: Any, ctx: Mapping[str, Any], result: Any, mwctx: RunNotes) -> None:
        """Write how long the link took, and for a replayed link how long it originally took."""
        ran = of_run(self, mwctx, _Clock).replayed.pop(id(link), None)
        self._close(link, mwctx, "" if ran is None else f" (replayed; it ran {ran:.2f} s)")

    async def failed(
        self, link: Any, ctx: Mapping[str, Any], error: BaseException, mwctx: RunNotes
    ) -> None:
        """Write how long the link ran before it failed."""
        self._close(link, mwctx, " (failed)")

    async def ended(
        self, chain: Any, ctx: Mapping[str, Any], error: BaseException | None, mwctx: RunNotes
    ) -> None:
        """Write the total of the run."""
        seconds = time.perf_counter() - of_run(self, mwctx, _Clock).start
        self._write(f"{name_of(chain)}: {seconds:.2f} s in all{' (failed)' if error else ''}")

    def _close(self, link: Any, mwctx: RunNotes, outcome: str) -> None:
        links = of_run(self, mwctx, _Clock).links
        start = links.close(link)
        if start is not None:
            seconds = time.perf_counter() - start
            self._write(f"{'  ' * (len(links) + 1)}{name_of(link)}: {seconds:.2f} s{outcome}")


def to_stderr(line: str) -> None:
    """Write a line to the current standard error, which a progress bar may have redirected."""
    sys.stderr.write(f"{line}\n")
