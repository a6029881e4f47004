"""The cost of a piece of work: wall time in seconds and peak memory in bytes.

On an accelerator the peak is that of PyTorch's allocator. Otherwise it is the peak resident memory
of this process. Linux records it and allows resetting it, so no sampling is needed; other systems
report the peak since the process started. `Cost.peak_of` says which one it is. Freed memory is
returned to the operating system first, so that work is not charged for earlier work's memory.
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
from ..checkpoints.devices import counts_bytes, peak_bytes, reset_peak
from ..checkpoints.placement import current_device

PeakOf = Literal["cuda", "accelerator", "process", "process since start"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): reset the peak resident set size


@dataclass(frozen=True)
class Cost:
    """Wall seconds, peak bytes, and what the bytes are the peak of."""

    seconds: float
    peak_bytes: int
    peak_of: PeakOf


class Meter:
    """Measures from construction on; `stop` returns the cost so far and may be called repeatedly.

    Overlapping meters share one process-wide peak. Starting a second meter resets it, so the first
    one then reports the peak since the second one started.
    """

    def __init__(self) -> None:
        release_unused_memory()
        self._device = current_device()
        self._peak_of = _reset_peak(self._device)
        self._start = time.perf_counter()

    def stop(self) -> Cost:
        """Return the cost since this meter was created."""
        peak = _read_peak(self._peak_of, self._device)
        return Cost(time.perf_counter() - self._start, peak, self._peak_of)


def _reset_peak(device: torch.device) -> PeakOf:
    if counts_bytes(device):
        reset_peak(device)
        return "cuda" if device.type == "cuda" else "accelerator"
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return "process since start"
    return "process"


def _read_peak(peak_of: PeakOf, device: torch.device) -> int:
    if peak_of in ("cuda", "accelerator"):
        return peak_bytes(device)
    if peak_of == "process":
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
