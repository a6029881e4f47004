"""run_sync: in plain code, in a running loop, and when it is interrupted."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from birdbone import Chain, run_sync
from birdbone.errors import LinkError


async def where(ctx: dict[str, Any]) -> dict[str, Any]:
    return {**ctx, "thread": threading.current_thread()}


def test_plain_code_waits_for_the_result() -> None:
    assert run_sync(Chain(where), {"a": 1}) == {"a": 1, "thread": threading.main_thread()}


async def test_a_running_loop_gets_a_thread_of_its_own() -> None:
    result = run_sync(where)
    assert result["thread"] is not threading.main_thread()
    assert not result["thread"].is_alive()


@pytest.mark.parametrize("inside", [False, True])
def test_failures_are_raised(inside: bool) -> None:
    async def fail(ctx: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("no more")

    async def call() -> None:
        run_sync(Chain(fail))

    with pytest.raises(LinkError, match="no more"):
        asyncio.run(call()) if inside else run_sync(Chain(fail))


async def test_an_interrupt_cancels_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that waits is interrupted once the link runs; the link hears of it."""
    heard: list[str] = []
    begun = threading.Event()

    async def endless(ctx: dict[str, Any]) -> dict[str, Any]:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise
        return ctx

    class Interrupted:
        """A future whose waiter is interrupted."""

        def __init__(self, future: Any) -> None:
            self.cancel = future.cancel

        def result(self) -> None:
            begun.wait(30)
            raise KeyboardInterrupt

    real = asyncio.run_coroutine_threadsafe
    waits = iter([Interrupted])
    monkeypatch.setattr(
        asyncio,
        "run_coroutine_threadsafe",
        lambda coroutine, loop: next(waits, lambda future: future)(real(coroutine, loop)),
    )
    with pytest.raises(KeyboardInterrupt):
        run_sync(Chain(endless))
    assert heard == ["cancelled"]
