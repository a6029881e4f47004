"""Stop a run on Ctrl-C or SIGTERM at the next block, and report what was written."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..checkpoints.user_paths import user_path
from ..contexts.ranks import lost_rank
from ..engine import Chain, Store
from ..engine import run as run_chain
from ..errors import BirdboneError
from ..journal import Journal
from ..reports.chains import save_links


class Stopped(Exception):
    """A signal ended the run; ``number`` is its number."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


def run_until_stopped(
    chain: Chain, *, tell: Callable[[str], None], store: Store | None = None
) -> dict[str, Any]:
    """Run a chain in a new event loop; SIGINT and SIGTERM stop it at the next block.

    Args:
        store: keeps finished links, so that the run can be resumed.
        tell: called with a message when a signal has arrived.

    Raises:
        Stopped: a signal arrived before the chain had finished.
    """
    folders = [user_path(each.settings.path) for each in save_links(chain)]
    before = [_identity(folder) for folder in folders]
    received: list[int] = []
    try:
        return asyncio.run(_watched(chain, received, tell, store))
    except (asyncio.CancelledError, BirdboneError):
        if not received:
            raise
        written = [_identity(folder) for folder in folders] != before
        what = "what had been saved is complete" if written else "nothing was written"
        if store is not None:
            where = f" in {store.path}" if isinstance(store, Journal) else ""
            what += f"; finished links are kept{where}, and the same command resumes from there"
        why = lost_rank(terminated=received[0] == signal.SIGTERM) or "stopped at the next block"
        raise Stopped(received[0], f"{why}; {what}") from None


async def _watched(
    chain: Chain, received: list[int], tell: Callable[[str], None], store: Store | None
) -> dict[str, Any]:
    task = asyncio.ensure_future(run_chain(chain, store=store))

    def stop(number: int) -> None:
        received.append(number)
        tell("stopping at the next block")
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    return await task


def _identity(folder: Path) -> int | None:
    """Differs between an output and the one that replaced it, because publishing is a rename."""
    return folder.stat().st_ino if folder.exists() else None
