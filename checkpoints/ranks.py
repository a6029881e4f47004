"""Dividing a run over ranks: processes that torchrun starts, which all run the same chain.

Every rank calls the functions of this file in the same order. With one process, and on rank 0
while it works `alone`, they return what they were given and cost nothing. Sums are added in the
order of the ranks, so a result depends on their number but not on timing.

All transfers are broadcasts (`rank_group`). Objects are pickled, their tensors arrive on the CPU.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import BirdboneError, DataError, SettingError
from .rank_group import VARIABLES, Group, joined_group
from .rank_group import join as _join

T = TypeVar("T")

_alone = 0  # depth of `alone`, in every thread of the process


def start() -> None:
    """Join the other ranks, where torchrun's variables name some; later calls do nothing.

    Raises:
        RankError: a rank did not start.
    """
    if not _alone:
        _join()


def size() -> int:
    """Number of ranks that share the present work; 1 for a process that works by itself."""
    group = _group()
    return 1 if group is None else group.size


def rank() -> int:
    """This process's place among them, from 0."""
    group = _group()
    return 0 if group is None else group.rank


def is_first() -> bool:
    """Whether this is rank 0, which alone writes and prints."""
    return rank() == 0


def local_rank() -> int | None:
    """The place among the ranks of this machine, which chooses the device; None for one process."""
    group = joined_group()
    return None if group is None else group.local_rank


@contextmanager
def alone() -> Iterator[None]:
    """Work by itself inside the context, as the only process, while the other ranks wait.

    torchrun's variables are hidden from libraries and from processes that are started.
    """
    global _alone
    hidden = {} if joined_group() is None else {n: os.environ.pop(n, None) for n in VARIABLES}
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1
        os.environ.update({name: value for name, value in hidden.items() if value is not None})


def places(count: int) -> range:
    """This rank's part of ``count`` windows: consecutive ones, in the order of the ranks.

    Raises:
        DataError: there are fewer windows than ranks.
    """
    if count < size() > 1:
        raise DataError(
            f"{size()} ranks cannot divide windows that are {count} in all; start fewer ranks, or "
            f"give more windows"
        )
    return range(count * rank() // size(), count * (rank() + 1) // size())


def share(windows: Tensor) -> Tensor:
    """This rank's part of windows ``[num_windows, ...]``, see `places`."""
    mine = places(len(windows))
    return windows[mine.start : mine.stop]


def total(tensor: Tensor) -> Tensor:
    """The sum over ranks of tensors of one shape and dtype, added in their order."""
    group = _group()
    if group is None:
        return tensor
    summed: Tensor | None = None
    for source in range(group.size):
        part = tensor if source == group.rank else torch.empty_like(tensor)
        part = group.broadcast(part, source)
        summed = part.clone() if summed is None else summed.add_(part)
    assert summed is not None
    return summed


def joined(rows: Tensor) -> Tensor:
    """The rows ``[rows, ...]`` of all ranks, in their order."""
    group = _group()
    if group is None:
        return rows
    parts = []
    for source, shape in enumerate(exchanged(tuple(rows.shape))):
        part = rows if source == group.rank else rows.new_empty(shape)
        parts.append(group.broadcast(part, source))
    return torch.cat(parts)


def collected(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors of all ranks in their order, on rank 0; none on the others."""
    group = _group()
    if group is None:
        return list(tensors)
    found = []
    for source, outlines in enumerate(exchanged([(each.shape, each.dtype) for each in tensors])):
        for place, (shape, dtype) in enumerate(outlines):
            own = tensors[place] if source == group.rank else None
            sent = torch.empty(shape, dtype=dtype) if own is None else own.cpu()
            sent = group.broadcast(sent, source)
            if group.rank == 0:
                found.append(sent)
    return found


def exchanged(value: T) -> list[T]:
    """What each rank gave, in their order."""
    group = _group()
    if group is None:
        return [value]
    return [_told(group, source, value) for source in range(group.size)]


def merged(found: dict[Any, T]) -> dict[Any, T]:
    """The entries of all ranks."""
    return {name: value for each in exchanged(found) for name, value in each.items()}


def divided(costs: Sequence[float], work: Callable[[int], T]) -> list[T]:
    """``work(place)`` for every place of ``costs``, each done by one rank, the results on all.

    The costliest work comes first, and each piece goes to the rank that has least so far.
    """
    if size() == 1:
        return [work(place) for place in range(len(costs))]
    owners = _owners(costs, size())
    done = merged({p: work(p) for p, owner in enumerate(owners) if owner == rank()})
    return [done[place] for place in range(len(costs))]


def from_first(work: Callable[[], T]) -> T:
    """The result of ``work`` on rank 0, on every rank; its error is raised on every rank too."""
    found: T = first_tells(work, lambda result: result)
    return found


def only_first(work: Callable[[], T]) -> T | None:
    """The result of ``work`` on rank 0, None on others; its error is raised on every rank."""
    found: T | None = first_tells(work, lambda result: None)
    return found


def first_tells(work: Callable[[], T], told: Callable[[T], Any]) -> Any:
    """The result of ``work`` on rank 0, and ``told`` of it on the other ranks."""
    group = _group()
    if group is None:
        return work()
    if group.rank > 0:
        return told_by_first()
    try:
        with alone():
            result = work()
    except Exception as error:
        _told(group, 0, (None, sendable(error)))
        raise
    _told(group, 0, (told(result), None))
    return result


def told_by_first() -> Any:
    """What rank 0 tells in `first_tells`."""
    group = _group()
    assert group is not None
    value, error = _told(group, 0)
    if error is not None:
        raise error
    return value


def _group() -> Group | None:
    return None if _alone else joined_group()


def _told(group: Group, source: int, value: Any = None) -> Any:
    """The ``value`` of one rank, on every rank; on that rank the object itself."""
    content = torch.empty(0, dtype=torch.uint8)
    if source == group.rank:
        content = _bytes_of(value)
    count = group.broadcast(torch.tensor([len(content)]), source)
    if source != group.rank:
        content = torch.empty(int(count), dtype=torch.uint8)
    content = group.broadcast(content, source)
    if source == group.rank:
        return value
    return torch.load(io.BytesIO(content.numpy().tobytes()), map_location="cpu", weights_only=False)


def _bytes_of(value: Any) -> Tensor:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)


def sendable(value: Any) -> Any:
    """The value, or an error with its text where it cannot be pickled."""
    try:
        _bytes_of(value)
    except Exception:  # noqa: BLE001 - whatever pickle raises
        return BirdboneError(f"{type(value).__name__}: {value}")
    return value


def _owners(costs: Sequence[float], count: int) -> list[int]:
    owners, loads = [0] * len(costs), [0.0] * count
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        owners[place] = min(range(count), key=loads.__getitem__)
        loads[owners[place]] += costs[place]
    return owners


def device_of_rank(device: torch.device) -> torch.device:
    """A device without an index as that of this rank; the CPU, and one process, as they are.

    Raises:
        SettingError: the machine has fewer devices than ranks, or all ranks were given one device.
    """
    place = local_rank()
    if place is None or device.type == "cpu":
        return device
    index: int | None = device.index  # torch's stubs leave None out
    if index is not None:
        raise SettingError(
            f"device '{device}' is one device, and each rank needs its own; give '{device.type}'"
        )
    count = torch.accelerator.device_count()
    if place >= count:
        raise SettingError(
            f"this machine has {count} devices of type {device.type}; start at most {count} ranks "
            f"on it, or compute on the CPU (--device cpu)"
        )
    return torch.device(device.type, place)
