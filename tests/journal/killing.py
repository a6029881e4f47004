"""A run that is killed again and again until it ends: a program of its own, run by test_killing.

It imports everything once and forks a child for every attempt; nothing of torch's has run by then,
so a child is a fresh process in all but its imports. Children are ended by SIGKILL, which no code
of theirs sees coming. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft  # noqa: F401 - heal imports it, which takes seconds
from tiny import tiny_checkpoint
from tiny_contexts import calibrated, digests

import birdbone.models.training.distillation  # noqa: F401
from birdbone.engine import Chain, run
from birdbone.journal import RunFolder
from birdbone.links import heal, profile, prune, quantize, score, validate
from birdbone.models.passes import resuming

ATTEMPTS = 80


def chain() -> Chain:
    return Chain(
        profile(),
        score(),
        prune(sparsity=0.5, batch_size=1),
        heal(epochs=1),
        heal(method="lora", rank=2, epochs=1, batch_size=2),
        quantize(group_size=32, batch_size=1),
        validate(),
    )


class Deadly:
    """Middleware that ends the process at one event; ``boundary`` counts only ends of links."""

    def __init__(self, last: int, *, boundary: bool) -> None:
        self.left, self.boundary = last, boundary

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    async def before(self, link: Any, ctx: Any, mwctx: Any) -> None:
        if not self.boundary:
            self.count()

    def progress(self, link: Any, event: Any, mwctx: Any) -> None:
        if not self.boundary:
            self.count()

    async def after(self, link: Any, ctx: Any, result: Any, mwctx: Any) -> None:
        self.count()


def deadly_writes(deadly: Deadly) -> None:
    """Count every step of publishing a file too: before it is synced, before it has its name."""

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            deadly.count()
            return function(*args, **kwargs)

        return counting

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)


def child(folder: Path | None, deadly: Deadly | None, answer: int) -> None:
    """Run the chain; what it ends in goes to ``answer``."""
    # Every block is kept, so that a kill finds work in progress.
    resuming.PAUSE_SECONDS, resuming.SAVING_FRACTION = 0.0, float("inf")
    whole, ctx = chain(), calibrated(tiny_checkpoint())
    if deadly is not None:
        whole.use(deadly)
        if not deadly.boundary:
            deadly_writes(deadly)
    if folder is None:
        result = asyncio.run(run(whole, ctx))
    else:
        with RunFolder(folder) as store:
            result = asyncio.run(run(whole, ctx, store=store))
    found = {"tensors": digests(result["checkpoint"]), "id": result["checkpoint"].id}
    os.write(answer, json.dumps(found).encode())


def attempt(folder: Path | None, deadly: Deadly | None, seconds: float | None) -> Any:
    """One child, killed by itself or after so many seconds; its answer, or None if it was."""
    while signal.sigtimedwait([signal.SIGCHLD], 0) is not None:
        pass  # of the child before
    reading, writing = os.pipe()
    identity = os.fork()
    if identity == 0:
        status = 1
        try:
            os.close(reading)
            child(folder, deadly, writing)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    if seconds is not None and signal.sigtimedwait([signal.SIGCHLD], seconds) is None:
        os.kill(identity, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(identity, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    if status != 0:
        raise SystemExit(f"a child failed with status {status}")
    return json.loads(answer)


def moments(kind: str, seed: int, whole: float) -> Iterator[tuple[Deadly | None, float | None]]:
    """When each attempt is killed: at an event of its own, or from outside.

    From outside it is after a part of the ``whole`` seconds that an unbroken run takes here.
    """
    chance = random.Random(seed)
    for number in range(1, ATTEMPTS):
        if kind == "boundaries":
            yield Deadly(number, boundary=True), None
        elif kind == "events":
            yield Deadly(chance.randint(5, 150), boundary=False), None
        else:
            yield None, whole * chance.uniform(0.02, 0.12) * (1 + number / 4)
    yield None, None


def killed_until_done(kind: str, seed: int, folder: Path, whole: float) -> dict[str, Any]:
    """Attempts in one folder until one is not killed: how many were, and what it ended in."""
    for kills, (deadly, seconds) in enumerate(moments(kind, seed, whole)):
        found = attempt(folder, deadly, seconds)
        if found is not None:
            return {"kills": kills, "found": found}
    raise SystemExit("the last attempt was killed too")


def main(parent: Path, kinds: list[str]) -> dict[str, Any]:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    start = time.monotonic()
    outcomes = {"unbroken": attempt(None, None, None)}
    whole = time.monotonic() - start
    for name in kinds:
        kind, seed = name.split("-")
        outcomes[name] = killed_until_done(kind, int(seed), parent / name, whole)
    return outcomes


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), sys.argv[2:])))
