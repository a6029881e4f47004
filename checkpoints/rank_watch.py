"""Whether the other ranks are alive: each writes a sign of life to a common store every second.

A rank that fails writes why. If one fails, or gives no sign for two thirds of `timeout_seconds`,
the others raise `RankError` where they wait for it or announce progress. One that does neither in
the last third is ended by this watch, with the same sentence.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from torch.distributed import Store  # type: ignore[attr-defined]  # torch does not list it

from ..errors import RankError, SettingError

TIMEOUT = "BIRDBONE_RANK_TIMEOUT"
"""Environment variable: seconds after which a dead or hanging rank has ended the others."""

_BEAT_SECONDS = 1.0
_DROPPED_SECONDS = 5.0  # no sign of life for so long, once a connection broke


def timeout_seconds() -> float:
    """Seconds in which the other ranks end after one has died; 30 by default.

    Raises:
        SettingError: the variable holds no number of at least 6.
    """
    text = os.environ.get(TIMEOUT, "30")
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 6 <= found < float("inf"):
        raise SettingError(f"{TIMEOUT}={text!r} is no number of seconds from 6 up")
    return found


@dataclass
class _Seen:
    """The last sign of life of a rank, and when it came."""

    sign: str
    at: float


class Watch:
    """One rank's view of the others.

    Attributes:
        lost: why the run cannot go on; None while all ranks are alive.
        link: name of the running link.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._timeout = timeout_seconds()
        store.set_timeout(timedelta(seconds=self._timeout * 2 / 3))
        self._state: dict[str, Any] = {"beat": 0, "lost": None, "left": False}
        self._seen = {n: _Seen("", time.monotonic()) for n in range(size) if n != rank}
        self._guard, self._left = threading.Lock(), threading.Event()
        self._lost_at = 0.0
        self._running, self._reached = False, True
        self._absent: RankError | None = None  # whom to miss once there is work to share
        self.lost: RankError | None = None
        self.link = ""

    @property
    def over(self) -> bool:
        """Whether this rank failed or lost another."""
        return self._state["lost"] is not None

    @property
    def speaks(self) -> bool:
        """Whether this rank prints for all: the first one that is not lost."""
        gone = -1 if self.lost is None or self.lost.failed else self.lost.rank
        return self._rank == min(n for n in range(self._size) if n != gone)

    def start(self, seconds: float) -> None:
        """Give the first sign of life and wait for that of the others.

        Raises:
            RankError: one did not come.
        """
        self.post()
        here = self._store.check
        _await(lambda: all(here([_key(other)]) for other in self._seen), seconds)
        for other in self._seen:
            if not here([_key(other)]):
                raise RankError(other, f"did not start within {seconds:g} s")
        threading.Thread(target=self._watch, name="rank-watch", daemon=True).start()

    def running(self, yes: bool) -> None:
        """A run begins or ends; the watch ends the process only during a run."""
        self._running = yes

    def check(self) -> None:
        """Raise if a rank is lost.

        Raises:
            RankError: with the rank and the reason.
        """
        if self.lost is None and self._absent is not None:
            self._lose(self._absent)
        if self.lost is not None:
            raise self.lost

    def culprit(self, error: Exception) -> RankError:
        """The reason why a connection broke, as soon as it is known."""
        self.await_silence()
        if self.lost is None:
            self._lose(RankError(self._rank, f"lost the connection to the others: {error}"))
        assert self.lost is not None
        return self.lost

    def await_silence(self) -> None:
        """Where there is reason to think that a rank died, wait a moment to see which."""

        def is_known() -> bool:
            for other, seen in self._seen.items():
                if time.monotonic() - seen.at > _DROPPED_SECONDS:
                    self._lose(RankError(other, _DIED))
            return self.lost is not None

        _await(is_known, 2 * _DROPPED_SECONDS)

    def fail(self, reason: str) -> None:
        """Tell the other ranks that this one failed, or which one it lost.

        Waits a moment for them to read it, since the store may end with this process.
        """
        self._running = False
        if self._state["lost"] is None:
            lost = self.lost
            self._state["lost"] = [self._rank, reason, True] if lost is None else lost.parts
            with suppress(RuntimeError):
                self.post()
        _await(lambda: all(map(self._knows, self._seen)), 3 * _BEAT_SECONDS)

    def leave(self) -> None:
        """End the signs of life: this rank has done its part.

        Rank 0 waits a moment for the others, since the store may end with it.
        """
        self._state["left"] = True

        def is_last() -> bool:
            if self._rank != 0 or self._state["lost"] is not None:
                return True
            self._read()
            return all(map(self._has_left, self._seen))

        with suppress(RuntimeError):  # the store has ended before
            self.post()
            _await(is_last, _DROPPED_SECONDS)
        self._left.set()

    def _has_left(self, other: int) -> bool:
        sign = self._seen[other].sign
        return bool(sign) and json.loads(sign)["left"]

    def _knows(self, other: int) -> bool:
        """Whether another rank has stopped for the same reason, or is gone."""
        sign = self._seen[other].sign
        return not sign or json.loads(sign)["lost"] is not None or self._is_silent(other)

    def _is_silent(self, other: int) -> bool:
        return time.monotonic() - self._seen[other].at > self._timeout * 2 / 3

    def _watch(self) -> None:
        while not self._left.wait(_BEAT_SECONDS):
            self.beat()
            self._end_if_stuck()

    def beat(self) -> None:
        """Give a sign of life and read those of the others; done once a second."""
        try:
            if self._reached:
                self._state["beat"] += 1
                self.post()
                self._read()
        except RuntimeError:  # the store is rank 0's, or torchrun's
            self._reached = False
            self._absent = RankError(0, "or the process that started the ranks is gone")
        if self._running and self._absent is not None:
            self._lose(self._absent)

    def post(self) -> None:
        """Write the sign of life."""
        with self._guard:
            self._store.set(_key(self._rank), json.dumps(self._state))

    def _read(self) -> None:
        with self._guard:
            signs = self._store.multi_get([_key(other) for other in self._seen])
        now, self._absent = time.monotonic(), None
        for (other, seen), sign in zip(self._seen.items(), signs, strict=True):
            if sign.decode() != seen.sign:
                seen.sign, seen.at = sign.decode(), now
            found = json.loads(seen.sign)
            if found["lost"] is not None:
                self._lose(RankError(*found["lost"]))
            elif found["left"]:
                self._absent = RankError(other, "ended before the others")
            elif self._is_silent(other):
                self._absent = RankError(other, _DIED)

    def _lose(self, error: RankError) -> None:
        if self.lost is None:
            self._lost_at = time.monotonic()
            self.lost = error
            self._state["lost"] = error.parts

    def _end_if_stuck(self) -> None:
        """End the process if its work has not ended by itself."""
        stuck = time.monotonic() - self._lost_at > self._timeout / 3
        if self.lost is None or not self._running or not stuck:
            return
        if self.speaks and sys.__stderr__ is not None:
            sys.__stderr__.write(f"error: link '{self.link}' failed: {self.lost}\n")
            sys.__stderr__.flush()
        os._exit(1)


def _await(until: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition holds, or so many seconds."""
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        time.sleep(0.05)


_DIED = "gave no sign of life: it was killed, ran out of memory, or hangs"


def _key(rank: int) -> str:
    return f"rank/{rank}"
