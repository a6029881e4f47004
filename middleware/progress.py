"""Progress: bars in terminals and notebooks, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, TextIO

import rich.progress
from rich.console import Console

from ..engine import ProgressEvent
from ..engine.naming import name_of
from ..errors import SettingError
from .open_links import RunNotes, of_run

_Bars = dict[tuple[int, str], rich.progress.TaskID]


class Progress:
    """Shows how far the running links are, from what they announce.

    In a terminal, and in a notebook where ipywidgets is installed, a bar is drawn for each link and
    label while the link runs. Elsewhere, as in a log file, a line is written every ``interval``
    seconds at most.

    Args:
        stream: where to write; None is standard error.
        interval: minimum seconds between two lines, where no bars are drawn.

    Raises:
        SettingError: ``interval`` is negative.
    """

    # The screen belongs to the object, since all runs share the terminal; the bars of a run are in
    # its notes. Hooks may be called from any thread.

    def __init__(self, *, stream: TextIO | None = None, interval: float = 30.0) -> None:
        if interval < 0:
            raise SettingError(f"Progress(interval={interval}): give 0 or more seconds")
        self._interval = interval
        self._next_line = time.monotonic() + interval
        self._lock = threading.Lock()
        self._screen = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeRemainingColumn(),
            console=Console(file=stream, stderr=stream is None),
            transient=True,
        )

    async def before(self, link: Any, ctx: Mapping[str, Any], mwctx: RunNotes) -> None:
        """Nothing to show until the link announces something."""

    def progress(self, link: Any, event: ProgressEvent, mwctx: RunNotes) -> None:
        """Move the link's bar, or write a line if one is due."""
        if not self._draws():
            self._write_line(link, event)
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

    async def after(self, link: Any, ctx: Mapping[str, Any], result: Any, mwctx: RunNotes) -> None:
        """Remove the bars of the link."""
        self._clear(mwctx, id(link))

    async def failed(
        self, link: Any, ctx: Mapping[str, Any], error: BaseException, mwctx: RunNotes
    ) -> None:
        """Remove the bars of the failed link."""
        self._clear(mwctx, id(link))

    async def ended(
        self, chain: Any, ctx: Mapping[str, Any], error: BaseException | None, mwctx: RunNotes
    ) -> None:
        """Remove the bars that are left."""
        self._clear(mwctx, None)

    def _draws(self) -> bool:
        """Whether bars can be drawn; rich needs ipywidgets to replace output in a notebook."""
        console = self._screen.console
        if console.is_jupyter:
            return find_spec("ipywidgets") is not None
        # The console's file: while bars are drawn, rich replaces sys.stderr.
        return console.file.isatty()

    def _write_line(self, link: Any, event: ProgressEvent) -> None:
        with self._lock:
            now = time.monotonic()
            if now < self._next_line:
                return
            self._next_line = now + self._interval
            of = "" if event.total is None else f" of {event.total}"
            self._screen.console.file.write(f"{name_of(link)}: {event.label}, {event.done}{of}\n")
            self._screen.console.file.flush()

    def _clear(self, mwctx: RunNotes, link_id: int | None) -> None:
        bars = of_run(self, mwctx, _Bars)
        with self._lock:
            for key in [key for key in bars if link_id in (None, key[0])]:
                self._screen.remove_task(bars.pop(key))
            if self._screen.live.is_started and not self._screen.tasks:
                self._screen.stop()
