"""Logging: a run as structured events, one line each, for people or for machines."""

from __future__ import annotations

import logging
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO, cast

import structlog

from ..engine import Progress as Event
from ..errors import SettingError, did_you_mean
from .open_links import Notes, OpenLinks, name_of, newest_step, of_run, settings_of
from .redaction import error_text, redacted

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
    """One run's short name, which tells its lines from another run's, and its clocks."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    start: float = field(default_factory=time.perf_counter)
    links: OpenLinks[float] = field(default_factory=OpenLinks)


class Logging:
    """Logs ``link.started``, ``link.progress`` (debug), ``link.finished``, ``link.failed`` and
    ``run.ended`` with a structlog logger of its own; structlog's global set-up stays untouched.

    Settings and error texts pass without their secrets. On a plain ``modulink.Chain`` the last two
    events and progress do not occur: that runtime tells its middleware none of them.

    Args:
        renderer: ``console`` for people, ``json`` for one JSON object a line.
        stream: where lines go; None is standard error as it is at each event.
        level: the least level that is written.

    Raises:
        SettingError: an unknown renderer or level.
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
                mend = did_you_mean(str(value), known)
                raise SettingError(f"Logging has no {name} {value!r}; {mend}")
        self._renderer = renderer
        self._stream = stream
        self._colors = (stream if stream is not None else sys.stderr).isatty()
        self._level = _LEVELS[level]

    async def before(self, link: Any, ctx: Mapping[str, Any], mwctx: Notes) -> None:
        """Log that the link starts, and with which settings."""
        self._logger(mwctx).info(
            "link.started", link=name_of(link), settings=redacted(settings_of(link))
        )
        of_run(self, mwctx, _Run).links.open(link, time.perf_counter())

    def progress(self, link: Any, event: Event, mwctx: Notes) -> None:
        """Log how far the link is, at level debug."""
        self._logger(mwctx).debug(
            "link.progress",
            link=name_of(link),
            label=event.label,
            done=event.done,
            total=event.total,
        )

    async def after(self, link: Any, ctx: Mapping[str, Any], result: Any, mwctx: Notes) -> None:
        """Log the link's seconds and what it measured."""
        step = newest_step(link, ctx, result)
        metrics = {"metrics": dict(step.metrics)} if step is not None and step.metrics else {}
        self._logger(mwctx).info(
            "link.finished", link=name_of(link), **self._seconds(link, mwctx), **metrics
        )

    async def failed(
        self, link: Any, ctx: Mapping[str, Any], error: BaseException, mwctx: Notes
    ) -> None:
        """Log why the link failed."""
        self._logger(mwctx).error(
            "link.failed", link=name_of(link), **self._seconds(link, mwctx), error=error_text(error)
        )

    async def ended(
        self, chain: Any, ctx: Mapping[str, Any], error: BaseException | None, mwctx: Notes
    ) -> None:
        """Log the run's outcome."""
        seconds = round(time.perf_counter() - of_run(self, mwctx, _Run).start, 3)
        outcome = "finished" if error is None else "failed"
        self._logger(mwctx).info(
            "run.ended", chain=name_of(chain), outcome=outcome, seconds=seconds
        )

    def _seconds(self, link: Any, mwctx: Notes) -> dict[str, float]:
        start = of_run(self, mwctx, _Run).links.close(link)
        return {} if start is None else {"seconds": round(time.perf_counter() - start, 3)}

    def _logger(self, mwctx: Notes) -> structlog.typing.FilteringBoundLogger:
        stream = self._stream if self._stream is not None else sys.stderr
        # Every part is named here, so that nothing is taken from structlog's global set-up.
        logger = structlog.wrap_logger(
            structlog.PrintLogger(stream),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                self._rendering(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(self._level),
            context_class=dict,
            cache_logger_on_first_use=False,
        )
        bound = logger.bind(run=of_run(self, mwctx, _Run).id)
        return cast(structlog.typing.FilteringBoundLogger, bound)

    def _rendering(self) -> structlog.typing.Processor:
        if self._renderer == "json":
            return structlog.processors.JSONRenderer()
        return structlog.dev.ConsoleRenderer(colors=self._colors)
