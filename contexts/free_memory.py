"""How much more memory a run can get where it computes."""

from __future__ import annotations

import resource
from pathlib import Path

import psutil
import torch

# Of a container or a systemd scope: the limit, what counts against it, and what of that is cache.
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
    """Bytes that are free: on the current CUDA device where there is one, else in this machine.

    Of CUDA memory what PyTorch holds in reserve counts as free. On a machine the least counts of
    what it has left, what the control group of this process has, and its own limit (`ulimit -v`).
    """
    if not torch.cuda.is_available():
        rooms = (psutil.virtual_memory().available, _group_bytes(), _own_bytes())
        return min(room for room in rooms if room is not None)
    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def _group_bytes() -> int | None:
    """What is left to the control group, as this process sees it; None where there is no limit."""
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
    """What is left of the address space this process may have; None where there is no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    return max(0, limit - psutil.Process().memory_info().vms)
