"""A pretend accelerator: finds device faults, and counts device memory, on a machine without one.

Tensors on it compute on the CPU. An operation that mixes devices raises, as on CUDA; bytes on the
device, their peak and all transfers are counted; a limit makes it run out of memory. It is built on
torch's Python backend for PrivateUse1, registered when this module is imported; outside of
`pretended` it reports that it is not available, and the CPU is used as ever.

Not modelled: autocast (it changes nothing), streams, several devices, and memory that a kernel
takes for itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration as registration

NAME = "pretend"
_torch_tensor = torch.tensor

# Operations whose indices (second argument) may be on the CPU, as on CUDA.
_HOST_INDICES = {"aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_"}


@dataclass
class Ledger:
    """What is on the device, and what was moved.

    Attributes:
        limit: bytes that the device has; None for no limit.
        allocated, peak: bytes of tensors now, and the most so far.
        moved_there, moved_back: bytes copied to the device and from it.
        operations: number of operations on the device.
        holders: storage address to the number of tensors on it.
    """

    limit: int | None = None
    allocated: int = 0
    peak: int = 0
    moved_there: int = 0
    moved_back: int = 0
    operations: int = 0
    holders: dict[int, int] = field(default_factory=dict)
    available: bool = False

    def reset(self) -> None:
        """Forget the peak and the transfers; tensors that exist stay counted."""
        self.peak = self.allocated
        self.moved_there = self.moved_back = self.operations = 0


ledger = Ledger()
_lock = threading.RLock()


class _Hold:
    """One tensor's part in a storage, given up when the tensor is freed."""

    def __init__(self, storage: Any) -> None:
        self.address = 0
        address, size = storage.data_ptr(), storage.nbytes()
        if not size:
            return
        with _lock:
            if address not in ledger.holders:
                if ledger.limit is not None and ledger.allocated + size > ledger.limit:
                    raise torch.OutOfMemoryError(
                        f"{NAME} out of memory: {ledger.allocated} of {ledger.limit} bytes in "
                        f"use, {size} more asked for"
                    )
                ledger.holders[address] = 0
                ledger.allocated += size
                ledger.peak = max(ledger.peak, ledger.allocated)
            ledger.holders[address] += 1
            self.address, self.size = address, size

    def __del__(self) -> None:
        if not self.address:
            return
        with _lock:
            ledger.holders[self.address] -= 1
            if not ledger.holders[self.address]:
                del ledger.holders[self.address]
                ledger.allocated -= self.size


class PretendTensor(Tensor):
    """A CPU tensor that reports the pretend device as its own."""

    raw: Tensor
    _hold: _Hold

    @staticmethod
    def __new__(cls, raw: Tensor) -> PretendTensor:
        return Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=f"{NAME}:0",
        )

    def __init__(self, raw: Tensor) -> None:
        self.raw, self._hold = raw, _Hold(raw.untyped_storage())

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        # torch exchanges its own part of a tensor, and knows nothing of ours.
        assert isinstance(value, PretendTensor)
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.raw, self._hold = value.raw, value._hold

    def __getitem__(self, index: Any) -> Tensor:
        # torch makes a tensor of a list of places itself, which ends as in _tensor below.
        parts = index if isinstance(index, tuple) else (index,)
        places = tuple(_torch_tensor(each) if isinstance(each, list) else each for each in parts)
        return super().__getitem__(places)

    def tolist(self) -> Any:
        ledger.moved_back += self.raw.numel() * self.raw.element_size()
        return self.raw.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert a {NAME} tensor to numpy; copy it to the host first")

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def untyped_storage(self) -> Any:
        return self.raw.untyped_storage()


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation: checked, counted, and computed on the CPU."""
    ledger.operations += 1
    name, device = func.name(), kwargs.get("device")
    wrappers: dict[int, PretendTensor] = {}
    raw_args = tuple(_raw(each, wrappers) for each in args)
    raw_kwargs = {key: _raw(each, wrappers) for key, each in kwargs.items() if key != "pin_memory"}
    there = bool(wrappers) if device is None else torch.device(device).type == NAME
    if name in ("aten::_to_copy", "aten::copy_"):
        _count(name, args, there)
        there = there and (name == "aten::_to_copy" or isinstance(args[0], PretendTensor))
    elif wrappers:
        _check_devices(name, args, kwargs)
    if there and device is not None:
        raw_kwargs["device"] = "cpu"
    return (
        _wrapped(func(*raw_args, **raw_kwargs), wrappers)
        if there
        else func(*raw_args, **raw_kwargs)
    )


def _raw(value: Any, wrappers: dict[int, PretendTensor]) -> Any:
    """A value without wrappers, which are noted by the tensors in them."""
    if isinstance(value, PretendTensor):
        wrappers[id(value.raw)] = value
        return value.raw
    if isinstance(value, list | tuple):
        return type(value)([_raw(each, wrappers) for each in value])
    return value


def _wrapped(value: Any, wrappers: dict[int, PretendTensor]) -> Any:
    """What an operation returned, on the device; in place, it returns what it was given."""
    if isinstance(value, Tensor):
        known = wrappers.get(id(value))
        return PretendTensor(value) if known is None else known
    if isinstance(value, list | tuple):
        return type(value)([_wrapped(each, wrappers) for each in value])
    return value


def _count(name: str, args: Any, there: bool) -> None:
    source, target = (args[0], None) if name == "aten::_to_copy" else (args[1], args[0])
    to_device = there if target is None else isinstance(target, PretendTensor)
    size = source.numel() * source.element_size()
    if isinstance(source, PretendTensor) and not to_device:
        ledger.moved_back += size
    elif to_device and not isinstance(source, PretendTensor):
        ledger.moved_there += size


def _check_devices(name: str, args: Any, kwargs: Any) -> None:
    """Refuse tensors of the CPU; those without axes may join, as on CUDA."""
    if name in _HOST_INDICES and isinstance(args[0], PretendTensor):
        args = (args[0], *args[2:])
    if any(_is_host(each) for each in (*args, *kwargs.values())):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found {NAME}:0 and cpu in {name}"
        )


def _is_host(value: Any) -> bool:
    """Whether it is, or holds, a tensor of the CPU with axes."""
    if isinstance(value, Tensor):
        return value.dim() > 0 and not isinstance(value, PretendTensor)
    return isinstance(value, list | tuple) and any(_is_host(each) for each in value)


class _Module(registration._DummyBackendModule):
    """What torch.cuda is to CUDA."""

    def is_available(self) -> bool:
        return ledger.available

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def is_bf16_supported(self, *_: Any) -> bool:
        return True

    def synchronize(self, *_: Any) -> None:
        """Nothing runs on its own."""

    def memory_allocated(self, *_: Any) -> int:
        return ledger.allocated

    def memory_reserved(self, *_: Any) -> int:
        return ledger.allocated

    def max_memory_allocated(self, *_: Any) -> int:
        return ledger.peak

    def reset_peak_memory_stats(self, *_: Any) -> None:
        ledger.peak = ledger.allocated

    def mem_get_info(self, *_: Any) -> tuple[int, int]:
        total = 80 << 30 if ledger.limit is None else ledger.limit
        return total - ledger.allocated, total


class _Hook(registration._DummyPrivateUse1Hook):
    def is_available(self) -> bool:
        return ledger.available


def _tensor(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
    """torch.tensor, whose own way to a device in Python ends in an internal error of torch."""
    if device is None or torch.device(device).type != NAME:
        return _torch_tensor(*args, device=device, **kwargs)
    return _torch_tensor(*args, device="cpu", **kwargs).to(device)


# Here, since autograd counts the devices once, when the first backward pass of a process begins.
registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module(), hook=_Hook())
_library = torch.library.Library("_", "IMPL")
_library.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
_library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


@contextmanager
def pretended(limit: int | None = None) -> Iterator[Ledger]:
    """A machine with the pretend accelerator for as long as the context lasts."""
    ledger.available, ledger.limit, torch.tensor = True, limit, _tensor
    ledger.reset()
    try:
        yield ledger
    finally:
        ledger.available, ledger.limit, torch.tensor = False, None, _torch_tensor
