"""What a piece of work costs: wall seconds and peak memory, measured around it.

On CUDA the peak is the allocator's own. Elsewhere it is the peak resident size of this process:
Linux keeps one and lets it be reset, so nothing is sampled and nothing is missed; other systems
give the peak since the process began, and `Cost.peak_of` says which it was. What was let go of
before is given back to the system first, so that no work is charged for memory of earlier work.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ..checkpoints.allocator import release_unused_memory

PeakOf = Literal["cuda", "process", "process since start"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): reset the peak resident set size


@dataclass(frozen=True)
class Cost:
    """Wall seconds, peak bytes, and what those bytes are the peak of."""

    seconds: float
    peak_bytes: int
    peak_of: PeakOf


class Meter:
    """Starts measuring when made; `stop` gives the cost so far and may be called again.

    Overlapping meters share one process-wide peak: the later start resets it, so the earlier
    meter's peak is that since the later start.
    """

    def __init__(self) -> None:
        release_unused_memory()
        self._peak_of = _reset_peak()
        self._start = time.perf_counter()

    def stop(self) -> Cost:
        """The cost since this meter was made."""
        return Cost(time.perf_counter() - self._start, _read_peak(self._peak_of), self._peak_of)


def _reset_peak() -> PeakOf:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return "cuda"
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return "process since start"
    return "process"


def _read_peak(peak_of: PeakOf) -> int:
    if peak_of == "cuda":
        return torch.cuda.max_memory_allocated()
    if peak_of == "process":
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
