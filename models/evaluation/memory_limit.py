"""The memory that a fresh process may take, so that a hostile config cannot exhaust the machine.

The limit follows from the weight files: ``FACTOR`` times their bytes, since 2-bit weights are 16
times as large in float32 and are held twice while they are converted, and ``SPARE_BYTES`` for
activations and logits; never more than the machine has. It counts what the process takes beyond the
interpreter with its libraries, and is set by the process itself (RLIMIT_DATA) after its imports.

There is none on a GPU, whose driver reserves far more address space than it uses, and none where
the system does not enforce it (only Linux does).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ...errors import SettingError

VARIABLE = "BIRDBONE_MEMORY_LIMIT_GB"
"""The environment variable that sets another limit, in GB; 0 for none."""

FACTOR = 32
SPARE_BYTES = 4_000_000_000
_EXHAUSTED = ("MemoryError", "allocate memory", "bad_alloc", "not enough memory", "out of memory")


@dataclass(frozen=True)
class MemoryLimit:
    """How much a process may take beyond its imports, and where the number is from."""

    num_bytes: int
    derived_from: str

    def explain(self, error: str) -> str:
        """The error of a process, in one sentence if it met the limit."""
        if any(word in error for word in _EXHAUSTED):
            return f"it needs more than {self}"
        return error

    def __str__(self) -> str:
        return (
            f"{self.num_bytes / 1e9:.1f} GB of memory, the limit {self.derived_from}; if the model "
            f"is yours and that large, set {VARIABLE} to more GB"
        )


def memory_limit(request: Mapping[str, Any]) -> MemoryLimit | None:
    """The limit for a request to a fresh process; None for no limit.

    Raises:
        SettingError: the environment variable is no number of GB.
    """
    if not str(request.get("device", "cpu")).startswith("cpu") or sys.platform != "linux":
        return None
    asked = os.environ.get(VARIABLE)
    if asked is not None:
        return _asked(asked)
    held = sum(path.stat().st_size for path in _weight_files(request) if path.is_file())
    derived = SPARE_BYTES + FACTOR * held
    whole = psutil.virtual_memory().total + psutil.swap_memory().total
    if derived > whole:
        return MemoryLimit(whole, "that the machine has")
    return MemoryLimit(
        derived,
        f"derived from {held / 1e6:.1f} MB of weights ({SPARE_BYTES // 10**9} GB + {FACTOR}x)",
    )


def _asked(words: str) -> MemoryLimit | None:
    try:
        gigabytes = float(words)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise SettingError(
            f"environment variable {VARIABLE}={words!r} is no number of GB; set it to a number "
            f"such as 16, or to 0 for no limit"
        )
    return MemoryLimit(int(gigabytes * 1e9), f"set by {VARIABLE}") if gigabytes else None


def _weight_files(request: Mapping[str, Any]) -> Iterable[Path]:
    """Every weight file that the process may read."""
    yield from map(Path, request.get("parts") or ())
    if "parts" not in request:
        folders = (request["folder"], request.get("dense"))
        for folder in map(Path, filter(None, folders)):
            yield from folder.glob("*.safetensors")
