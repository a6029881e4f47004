"""The devices of this machine: their names, their memory, and what is on them.

Accelerators are found through ``torch.accelerator``: CUDA, ROCm (which torch names cuda), XPU and
MPS. Memory is read from the device's module in torch, such as ``torch.cuda``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import SettingError

CPU = torch.device("cpu")


def accelerator() -> torch.device | None:
    """The accelerator of this machine, without an index; None if there is none."""
    return torch.accelerator.current_accelerator(check_available=True)


def best_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return accelerator() or CPU


def device_names() -> Sequence[str]:
    """The devices that can be chosen: the CPU, and every accelerator with its index."""
    found = accelerator()
    if found is None:
        return ["cpu"]
    return ["cpu", *(f"{found.type}:{index}" for index in range(torch.accelerator.device_count()))]


def named_device(name: str) -> torch.device:
    """The device of a name such as ``cpu``, ``cuda`` or ``cuda:1``; ``auto`` is the best one.

    Raises:
        SettingError: this machine has no such device.
    """
    if name == "auto":
        return best_device()
    names = device_names()
    try:
        device = torch.device(name)
    except RuntimeError:  # no device type has this name
        device = None
    if device is None or f"{device.type}:{device.index or 0}" not in (*names, "cpu:0"):
        raise SettingError(
            f"this machine has no device '{name}'; it has {', '.join(names)} (torch "
            f"{torch.__version__})"
        )
    return CPU if device.type == "cpu" else device


def describe_device(device: torch.device) -> str:
    """The product name of an accelerator if torch knows it, else its type, such as ``cpu``."""
    module = _module(device)
    if device.type != "cpu" and hasattr(module, "get_device_name"):
        return str(module.get_device_name(device))
    return device.type


def counts_bytes(device: torch.device) -> bool:
    """Whether torch counts the bytes that tensors take on this device."""
    return device.type != "cpu" and hasattr(_module(device), "max_memory_allocated")


def allocated_bytes(device: torch.device) -> int:
    """Bytes that tensors take on a device that `counts_bytes`."""
    return int(_module(device).memory_allocated(index_of(device)))


def peak_bytes(device: torch.device) -> int:
    """The most bytes that tensors took on a device since `reset_peak`."""
    return int(_module(device).max_memory_allocated(index_of(device)))


def reset_peak(device: torch.device) -> None:
    """Start `peak_bytes` anew."""
    _module(device).reset_peak_memory_stats(index_of(device))


def free_and_total_bytes(device: torch.device) -> tuple[int, int]:
    """Free and total bytes of a device that `counts_bytes`.

    What torch has reserved but does not use counts as free.
    """
    module, place = _module(device), index_of(device)
    free, total = module.mem_get_info(place)
    return free + module.memory_reserved(place) - module.memory_allocated(place), total


def release_unused(device: torch.device) -> None:
    """Return memory that torch has reserved but does not use to the device."""
    module = _module(device)
    if device.type != "cpu" and hasattr(module, "empty_cache"):
        module.empty_cache()


def finish_work(device: torch.device) -> None:
    """Wait until everything that was started on a device is done; for measuring time."""
    if device.type != "cpu":
        _module(device).synchronize(index_of(device))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left; MPS has no type of its own for it."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "MPS backend out of memory" in str(error)
    )


def _module(device: torch.device) -> Any:
    return torch.get_device_module(device)


def index_of(device: torch.device) -> int:
    """The index of an accelerator; the one in use if the device has none."""
    index: int | None = device.index  # torch's stubs leave None out
    return torch.accelerator.current_device_index() if index is None else index
