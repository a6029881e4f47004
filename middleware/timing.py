"""Timing: how long each link took, one line as it ends and the total at the end of the run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..contexts.steps import Step
from .open_links import Notes, OpenLinks, name_of, of_run


@dataclass
class _Clock:
    """When a run began and when each of its open links did, in `time.perf_counter` seconds.

    ``replayed``: by the link's id, how many seconds it took when it ran.
    """

    start: float = field(default_factory=time.perf_counter)
    replayed: dict[int, float] = field(default_factory=dict)
    links: OpenLinks[float] = field(default_factory=OpenLinks)


class Timing:
    """Writes wall seconds per link, those of inner chains indented, and a total.

    Args:
        write: takes each line, without its end; by default lines go to standard error. The same
            seconds stay in ``ctx["history"]`` for whoever computes with them.

    On a plain ``modulink.Chain`` there is no total, and a link that fails has no line: that
    runtime tells its middleware neither.
    """

    def __init__(self, *, write: Callable[[str], None] | None = None) -> None:
        self._write = write if write is not None else to_stderr

    async def before(self, link: Any, ctx: Mapping[str, Any], mwctx: Notes) -> None:
        """Start the link's clock."""
        of_run(self, mwctx, _Clock).links.open(link, time.perf_counter())

    async def replayed(self, link: Any, ctx: Mapping[str, Any], step: Step, mwctx: Notes) -> None:
        """Take note that the link only read what it left when it ran, to be said in its line."""
        of_run(self, mwctx, _Clock).replayed[id(link)] = step.cost.seconds

    async def after(self, link: Any, ctx: Mapping[str, Any], result: Any, mwctx: Notes) -> None:
        """Write how long the link took, or took when it ran if it was replayed."""
        ran = of_run(self, mwctx, _Clock).replayed.pop(id(link), None)
        self._close(link, mwctx, "" if ran is None else f" (replayed; it ran {ran:.2f} s)")

    async def failed(
        self, link: Any, ctx: Mapping[str, Any], error: BaseException, mwctx: Notes
    ) -> None:
        """Write how long the link ran before it failed."""
        self._close(link, mwctx, " (failed)")

    async def ended(
        self, chain: Any, ctx: Mapping[str, Any], error: BaseException | None, mwctx: Notes
    ) -> None:
        """Write the run's total."""
        seconds = time.perf_counter() - of_run(self, mwctx, _Clock).start
        self._write(f"{name_of(chain)}: {seconds:.2f} s in all{' (failed)' if error else ''}")

    def _close(self, link: Any, mwctx: Notes, outcome: str) -> None:
        links = of_run(self, mwctx, _Clock).links
        start = links.close(link)
        if start is not None:
            seconds = time.perf_counter() - start
            self._write(f"{'  ' * (len(links) + 1)}{name_of(link)}: {seconds:.2f} s{outcome}")


def to_stderr(line: str) -> None:
    """Write a line to standard error as it now is, so that a progress bar may redirect it."""
    sys.stderr.write(f"{line}\n")
