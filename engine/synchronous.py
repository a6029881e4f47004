"""`run_sync`: run a chain from code that is not async."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

from .chain import run
from .keeping import Store


def run_sync(
    chain: Any, ctx: Mapping[str, Any] | None = None, *, store: Store | None = None
) -> dict[str, Any]:
    """Run a chain (or one link), wait for it and return the last context; see `Chain.run`.

    Also works where an event loop is already running, as in a notebook; the run then has a thread
    and an event loop of its own. In async code, await `run` instead, since this blocks the loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run(chain, ctx, store=store))
    return _run_beside(chain, ctx, store)


def _run_beside(chain: Any, ctx: Mapping[str, Any] | None, store: Store | None) -> dict[str, Any]:
    """Run in another thread; an interrupt of this one cancels the run and waits for its end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="birdbone-run")
    thread.start()
    future = asyncio.run_coroutine_threadsafe(run(chain, ctx, store=store), loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
    finally:
        asyncio.run_coroutine_threadsafe(_other_tasks_end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _other_tasks_end() -> None:
    """Wait until a cancelled run has stopped at its next block."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
