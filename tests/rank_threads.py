"""Threads in place of ranks, for what each rank computes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from torch import Tensor

from birdbone.checkpoints import ranks


class _Group:
    """A rank among threads."""

    def __init__(self, rank: int, size: int, board: list[Any], meeting: threading.Barrier) -> None:
        self.rank = self.local_rank = rank
        self.size, self._board, self._meeting = size, board, meeting

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        if self.rank == source:
            self._board[0] = tensor.clone()
        self._meeting.wait()
        found: Tensor = self._board[0]
        assert (found.shape, found.dtype) == (tensor.shape, tensor.dtype)
        self._meeting.wait()
        return found.clone()


def ranks_in_threads(
    patch: pytest.MonkeyPatch, size: int
) -> Callable[[Callable[[int], Any]], list[Any]]:
    """Calls a function on so many ranks, with the rank; returns the results in their order."""
    here = threading.local()
    patch.setattr(ranks, "joined_group", lambda: getattr(here, "group", None))

    def run(work: Callable[[int], Any]) -> list[Any]:
        board, meeting = [None], threading.Barrier(size, timeout=30)

        def one(rank: int) -> Any:
            here.group = _Group(rank, size, board, meeting)
            return work(rank)

        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(one, range(size)))

    return run
