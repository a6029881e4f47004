"""Progress: a bar on the terminal for whatever the running links announce."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, TextIO

import rich.progress
from rich.console import Console

from ..engine import Progress as Event
from .open_links import Notes, name_of, of_run

_Bars = dict[tuple[int, str], rich.progress.TaskID]


class Progress:
    """Draws one bar per link and announced label while the link runs; then it is gone.

    Nothing is drawn where the stream is no terminal. Lines written to standard error meanwhile
    appear above the bars. The screen is the object's, as the terminal is one for all runs; which
    bars belong to a run is in the run's notes. Hooks may come from any thread.

    Args:
        stream: where to draw; None is standard error.
    """

    def __init__(self, *, stream: TextIO | None = None) -> None:
        self._lock = threading.Lock()
        self._screen = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeRemainingColumn(),
            console=Console(file=stream, stderr=stream is None),
            transient=True,
        )

    async def before(self, link: Any, ctx: Mapping[str, Any], mwctx: Notes) -> None:
        """Nothing to draw until the link announces something."""

    def progress(self, link: Any, event: Event, mwctx: Notes) -> None:
        """Move the link's bar, putting it on the screen first if it is new."""
        # The console's file: while bars are drawn, sys.stderr itself is Rich's stand-in for it.
        if not self._screen.console.file.isatty():
            return
        bars = of_run(self, mwctx, _Bars)
        key = id(link), event.label
        with self._lock:
            if key not in bars:
                bars[key] = self._screen.add_task(
                    f"{name_of(link)}: {event.label}", total=event.total
                )
                self._screen.start()
            complete = event.done == event.total
            self._screen.update(
                bars[key], completed=event.done, total=event.total, refresh=complete
            )

    async def after(self, link: Any, ctx: Mapping[str, Any], result: Any, mwctx: Notes) -> None:
        """Take the link's bars away."""
        self._clear(mwctx, id(link))

    async def failed(
        self, link: Any, ctx: Mapping[str, Any], error: BaseException, mwctx: Notes
    ) -> None:
        """Take the failed link's bars away."""
        self._clear(mwctx, id(link))

    async def ended(
        self, chain: Any, ctx: Mapping[str, Any], error: BaseException | None, mwctx: Notes
    ) -> None:
        """Take away whatever the run still has on the screen."""
        self._clear(mwctx, None)

    def _clear(self, mwctx: Notes, link_id: int | None) -> None:
        bars = of_run(self, mwctx, _Bars)
        with self._lock:
            for key in [key for key in bars if link_id in (None, key[0])]:
                self._screen.remove_task(bars.pop(key))
            if self._screen.live.is_started and not self._screen.tasks:
                self._screen.stop()
