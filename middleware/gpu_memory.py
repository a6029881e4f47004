"""GpuMemory: reports the peak memory of each link and refuses links that will not fit.

Without an accelerator it watches the memory of this process and of the machine, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..contexts.cost import Meter
from ..contexts.free_memory import free_bytes
from ..contexts.placement import counted_device, placed_by
from ..engine import Link
from ..engine.naming import name_of
from ..errors import ResourceError, SettingError
from .open_links import OpenLinks, RunNotes, of_run
from .timing import to_stderr

_KINDS = {
    "cuda": "CUDA memory",
    "accelerator": "accelerator memory",
    "process": "process memory",
    "process since start": "process memory since the process began",
}


@dataclass
class _Gauge:
    """The peak bytes since a link began."""

    meter: Meter = field(default_factory=Meter)
    peak_bytes: int = 0
    kind: str = ""

    def read(self) -> int:
        cost = self.meter.stop()
        self.kind = _KINDS[cost.peak_of]
        return self.raise_to(cost.peak_bytes)

    def raise_to(self, peak_bytes: int) -> int:
        self.peak_bytes = max(self.peak_bytes, peak_bytes)
        return self.peak_bytes


@dataclass
class _Gauges:
    """The running links of one run, and whether the first line was written."""

    links: OpenLinks[_Gauge] = field(default_factory=OpenLinks)
    told: bool = False


class GpuMemory:
    """Writes the peak memory of each link; refuses a link that needs more memory than is free.

    The need is ``memory_bytes`` of the link's ``forecast``; links without a forecast are never
    refused. Free device memory includes what PyTorch has reserved but does not use.

    Args:
        reserve_bytes: memory that must stay free in addition to a link's need.
        write: receives each line without a line break; default: standard error.

    Raises:
        ResourceError: from ``before``; the message states the link, its need and the free memory.
        SettingError: ``reserve_bytes`` is negative.
    """

    def __init__(
        self, *, reserve_bytes: int = 0, write: Callable[[str], None] | None = None
    ) -> None:
        if reserve_bytes < 0:
            raise SettingError(f"GpuMemory(reserve_bytes={reserve_bytes}): give 0 or more bytes")
        self.reserve_bytes = reserve_bytes
        self._write = write if write is not None else to_stderr

    async def before(self, link: Any, ctx: Mapping[str, Any], mwctx: RunNotes) -> None:
        """Refuse a link that will not fit; otherwise start measuring its memory."""
        gauges = of_run(self, mwctx, _Gauges)
        with placed_by(ctx):
            if not gauges.told:
                gauges.told = True
                self._tell_what_is_watched()
            self._refuse_unfit(link, ctx)
            for outer in gauges.links:
                outer.read()  # the new meter resets the process-wide peak
            gauges.links.open(link, _Gauge())

    async def after(self, link: Any, ctx: Mapping[str, Any], result: Any, mwctx: RunNotes) -> None:
        """Write the link's peak memory."""
        self._close(link, mwctx, "")

    async def failed(
        self, link: Any, ctx: Mapping[str, Any], error: BaseException, mwctx: RunNotes
    ) -> None:
        """Write the peak memory of the failed link: running out of it is a common reason."""
        self._close(link, mwctx, " (failed)")

    def _tell_what_is_watched(self) -> None:
        if counted_device() is None:
            self._write("GpuMemory: no accelerator here; watching this process's memory instead")

    def _refuse_unfit(self, link: Any, ctx: Mapping[str, Any]) -> None:
        forecast = link.factory.hooks.forecast if isinstance(link, Link) else None
        if forecast is None:
            return
        needed = forecast(ctx, link.settings).memory_bytes
        free, where = free_bytes(), _where()
        if needed + self.reserve_bytes > free:
            raise ResourceError(
                f"link '{name_of(link)}' needs {needed} bytes ({_in_words(needed)}), but {free} "
                f"({_in_words(free)}) are free {where}, of which {self.reserve_bytes} are "
                "reserved; choose smaller settings or a smaller model, stop other programs that "
                "use this memory, or lower reserve_bytes"
            )

    def _close(self, link: Any, mwctx: RunNotes, outcome: str) -> None:
        links = of_run(self, mwctx, _Gauges).links
        gauge = links.close(link)
        if gauge is None:
            return
        peak = gauge.read()
        for outer in links:
            outer.raise_to(peak)
        indent = "  " * (len(links) + 1)
        self._write(f"{indent}{name_of(link)}: peak {_in_words(peak)} of {gauge.kind}{outcome}")


def _where() -> str:
    device = counted_device()
    return "in this machine's memory" if device is None else f"on {device}"


def _in_words(num_bytes: int) -> str:
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.2f} GB"
    return f"{num_bytes / 1e6:.1f} MB"
