"""How much memory is still available where a run computes."""

from __future__ import annotations

import resource
from pathlib import Path

import psutil

from ..checkpoints.devices import counts_bytes, free_and_total_bytes
from ..checkpoints.placement import current_device

# Files of a control group (container, systemd scope): limit, usage, and the cache inside it.
_GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def free_bytes() -> int:
    """Return the free bytes of the device that computes; of this machine if that is the CPU.

    Device memory that PyTorch has reserved but does not use counts as free.
    """
    device = current_device()
    return free_and_total_bytes(device)[0] if counts_bytes(device) else free_host_bytes()


def free_host_bytes() -> int:
    """Return the free bytes of this machine.

    The minimum of the machine's available memory, what this process's control group still allows,
    and the process's own limit (`ulimit -v`).
    """
    limits = (psutil.virtual_memory().available, _group_bytes(), _own_bytes())
    return min(limit for limit in limits if limit is not None)


def _group_bytes() -> int | None:
    """Return what the control group still allows; None without a limit."""
    for folder, limit, used, cache in _GROUPS:
        try:
            allowed = int((folder / limit).read_text())
            taken = int((folder / used).read_text())
            lines = (folder / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # no such hierarchy, or "max"
            continue
        held = dict(line.split() for line in lines)
        return max(0, allowed - taken + int(held.get(cache, 0)))
    return None


def _own_bytes() -> int | None:
    """Return what the address space limit of this process still allows; None without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    return max(0, limit - psutil.Process().memory_info().vms)
