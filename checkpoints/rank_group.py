"""The process group of a run on several ranks: how it starts, and a broadcast that cannot hang.

gloo transfers between CPUs, NCCL between CUDA devices; other devices go through the CPU. Waiting
ends where a rank failed, fell silent (`rank_watch`) or the run is to stop.

The groups are not torch.distributed's default one: libraries that find that one divide their work
too, and would wait for the other ranks while rank 0 works alone. `default_group` makes one for the
time of a training that FSDP2 divides.
"""

from __future__ import annotations

import atexit
import itertools
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from threading import Event
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import (  # type: ignore[attr-defined]  # torch lists neither
    PrefixStore,
    rendezvous,
)

from ..errors import Cancelled, RankError
from .rank_watch import Watch

VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK"),
    *("ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"),
)
"""The variables by which torchrun tells a process its place."""

START_SECONDS = 300
"""How long ranks wait for one another to start."""

# A collective waits as long as others work; the watch tells whether they are alive.
_NO_TIMEOUT = timedelta(days=365)
_LONGEST_PAUSE = 0.01

stopping: ContextVar[Event | None] = ContextVar("stopping", default=None)
"""Set where the waiting thread is to stop."""

_joined: Group | None = None


@dataclass(frozen=True)
class Group:
    """This process among the ranks.

    Attributes:
        rank, size: its place, from 0, and their number.
        local_rank: its place on this machine.
        watch: tells whether the others are alive.
        groups: by the type of device that they transfer between.
        store: common to all ranks.
    """

    rank: int
    size: int
    local_rank: int
    watch: Watch
    groups: Mapping[str, Any]
    store: Any

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """The tensor of one rank on every rank; given the same shape and dtype everywhere.

        Raises:
            RankError: a rank failed, fell silent or has ended.
            Cancelled: this rank is to stop.
        """
        sent = (tensor if tensor.device.type in self.groups else tensor.cpu()).contiguous()
        if sent.numel():
            self._finish(sent.view(-1).view(torch.uint8), source)
        return sent.to(tensor.device)

    def _finish(self, content: Tensor, source: int) -> None:
        try:
            work = self.groups[content.device.type].broadcast(content, source)
            pause = 1e-5
            while not work.is_completed():
                self.watch.check()
                stop = stopping.get()
                if stop is not None and stop.is_set():
                    raise Cancelled("stopped while waiting for the other ranks")
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            work.wait()
        except RuntimeError as error:  # a connection broke: whoever it was, the watch will know
            raise self.watch.culprit(error) from error


def awaited() -> bool:
    """Whether torchrun's variables name other ranks that were not joined yet."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return _joined is None and several and {"RANK", "MASTER_ADDR"} <= os.environ.keys()


def joined_group() -> Group | None:
    """The group that `join` joined; None for one process."""
    return _joined


def join() -> None:
    """Join the ranks that the environment names, once; nothing if it names none or one.

    Raises:
        RankError: a rank did not start.
    """
    global _joined
    if not awaited():
        return
    place, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_RANK", place))
    wait = timedelta(seconds=START_SECONDS)
    try:
        store, _, _ = next(rendezvous("env://", timeout=wait))
        watch = Watch(PrefixStore("birdbone", store.clone()), place, size)
        watch.start(START_SECONDS)
        groups = _groups(store, place, size, local)
    except RuntimeError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT')}"
        raise RankError(
            place, f"cannot join the other ranks at {where} from {socket.gethostname()}: {error}"
        ) from error
    _joined = Group(place, size, local, watch, groups, store)
    atexit.register(_leave, watch)


_defaults = itertools.count()


@contextmanager
def default_group() -> Iterator[None]:
    """torch.distributed's default group of the same ranks, inside the context only.

    Raises:
        RankError: a rank was lost while the ranks exchanged something through it.
    """
    group = _joined
    assert group is not None
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if "cuda" in group.groups else "gloo",
        store=PrefixStore(f"default/{next(_defaults)}", group.store),
        rank=group.rank,
        world_size=group.size,
        timeout=_NO_TIMEOUT,
    )
    try:
        yield
    except RuntimeError as error:  # maybe a broken connection
        group.watch.await_silence()
        if group.watch.lost is not None:
            raise group.watch.lost from error
        raise
    finally:
        dist.destroy_process_group()


def _groups(store: Any, place: int, size: int, local: int) -> dict[str, Any]:
    """The group between CPUs, and that between CUDA devices where there are some."""
    gloo = PrefixStore("gloo", store)
    groups: dict[str, Any] = {"cpu": dist.ProcessGroupGloo(gloo, place, size, _NO_TIMEOUT)}
    if torch.cuda.is_available() and dist.is_nccl_available():
        torch.cuda.set_device(min(local, torch.cuda.device_count() - 1))
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = _NO_TIMEOUT
        nccl = PrefixStore("nccl", store)
        groups["cuda"] = dist.ProcessGroupNCCL(nccl, place, size, options)
    return groups


def _leave(watch: Watch) -> None:
    """End this rank's part when the process ends."""
    if watch.over:  # a transfer may still wait, and would keep the process
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    watch.leave()
