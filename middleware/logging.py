"""Logging: a run as structured events, one line each, for people or for programs."""

from __future__ import annotations

import logging
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

from ..engine import ProgressEvent
from ..engine.naming import name_of
from ..errors import MissingExtraError, SettingError, did_you_mean
from .open_links import OpenLinks, RunNotes, logged_metrics, newest_step, of_run, settings_of
from .redaction import error_text, redacted

if TYPE_CHECKING:
    import structlog

Renderer = Literal["console", "json"]
Level = Literal["debug", "info", "warning", "error"]

_RENDERERS = ("console", "json")
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


@dataclass
class _Run:
    """State of one run: a short id that marks its lines, and the clocks of its links."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    start: float = field(default_factory=time.perf_counter)
    links: OpenLinks[float] = field(default_factory=OpenLinks)


class Logging:
    """Logs the start, progress and end of every link as structured events.

    The events are ``link.started``, ``link.progress`` (debug), ``link.finished``, ``link.failed``
    and ``run.ended``. It uses its own structlog logger; the global configuration of structlog is
    not touched. Secrets in settings and error texts are replaced. On a plain ``modulink.Chain``,
    ``link.progress``, ``link.failed`` and ``run.ended`` do not occur, because that runtime does not
    report them to middleware.

    Args:
        renderer: ``console`` for people, ``json`` for one JSON object per line.
        stream: where lines go; None is the current standard error.
        level: lowest level that is written.

    Raises:
        SettingError: unknown renderer or level.
        MissingExtraError: structlog is not installed.
    """

    def __init__(
        self,
        *,
        renderer: Renderer = "console",
        stream: TextIO | None = None,
        level: Level = "info",
    ) -> None:
        for name, value, known in (
            ("renderer", renderer, _RENDERERS),
            ("level", level, _LEVELS),
        ):
            if value not in known:
                hint = did_you_mean(str(value), known)
                raise SettingError(f"Logging has no {name} {value!r}; {hint}")
        _structlog()  # fails here, not in the middle of a run
        self._renderer = renderer
        self._stream = stream
        self._colors = (stream if stream is not None else sys.stderr).isatty()
        self._level = _LEVELS[level]

    async def before(self, link: Any, ctx: Mapping[str, Any], mwctx: RunNotes) -> None:
        """Log the start of a link with its settings."""
        self._logger(mwctx).info(
            "link.started", link=name_of(link), settings=redacted(settings_of(link))
        )
        of_run(self, mwctx, _Run).links.open(link, time.perf_counter())

    def progress(self, link: Any, event: ProgressEvent, mwctx: RunNotes) -> None:
        """Log the progress of the link, at level debug."""
        self._logger(mwctx).debug(
            "link.progress",
            link=name_of(link),
            label=event.label,
            done=event.done,
            total=event.total,
        )

    async def after(self, link: Any, ctx: Mapping[str, Any], result: Any, mwctx: RunNotes) -> None:
        """Log the link's wall time and metrics."""
        step = newest_step(link, ctx, result)
        metrics = {} if step is None else logged_metrics(step)
        named = {"metrics": metrics} if metrics else {}
        self._logger(mwctx).info(
            "link.finished", link=name_of(link), **self._seconds(link, mwctx), **named
        )

    async def failed(
        self, link: Any, ctx: Mapping[str, Any], error: BaseException, mwctx: RunNotes
    ) -> None:
        """Log the error of the link."""
        self._logger(mwctx).error(
            "link.failed", link=name_of(link), **self._seconds(link, mwctx), error=error_text(error)
        )

    async def ended(
        self, chain: Any, ctx: Mapping[str, Any], error: BaseException | None, mwctx: RunNotes
    ) -> None:
        """Log the outcome of the run."""
        seconds = round(time.perf_counter() - of_run(self, mwctx, _Run).start, 3)
        outcome = "finished" if error is None else "failed"
        self._logger(mwctx).info(
            "run.ended", chain=name_of(chain), outcome=outcome, seconds=seconds
        )

    def _seconds(self, link: Any, mwctx: RunNotes) -> dict[str, float]:
        start = of_run(self, mwctx, _Run).links.close(link)
        return {} if start is None else {"seconds": round(time.perf_counter() - start, 3)}

    def _logger(self, mwctx: RunNotes) -> structlog.typing.FilteringBoundLogger:
        stream = self._stream if self._stream is not None else sys.stderr
        package = _structlog()
        # Every part is given explicitly, so that structlog's global configuration is not used.
        logger = package.wrap_logger(
            package.PrintLogger(stream),
            processors=[
                package.processors.add_log_level,
                package.processors.TimeStamper(fmt="iso", utc=True),
                self._rendering(),
            ],
            wrapper_class=package.make_filtering_bound_logger(self._level),
            context_class=dict,
            cache_logger_on_first_use=False,
        )
        bound = logger.bind(run=of_run(self, mwctx, _Run).id)
        return cast("structlog.typing.FilteringBoundLogger", bound)

    def _rendering(self) -> structlog.typing.Processor:
        if self._renderer == "json":
            found = _structlog().processors.JSONRenderer()
        else:
            found = _structlog().dev.ConsoleRenderer(colors=self._colors)
        return cast("structlog.typing.Processor", found)


def _structlog() -> Any:
    try:
        return import_module("structlog")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "Logging needs the package structlog; pip install 'birdbone[structlog]'"
        ) from error
