"""What a command prints on several ranks: only rank 0 prints, or the first that is left."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

from ..errors import SettingError

_DIVIDED = ("run", "compress", "quantize", "fit", "sensitivity")


@contextmanager
def only_first_rank_prints() -> Iterator[None]:
    """Drop what other ranks than 0 print inside the context."""
    with ExitStack() as stack:
        if os.environ.get("RANK", "0") != "0":
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield


@contextmanager
def speak_for_lost() -> Iterator[None]:
    """Print inside the context if this is the first rank that is left of several."""
    from ..checkpoints.rank_group import joined_group

    group = joined_group()
    with ExitStack() as stack:
        if group is not None and group.watch.speaks:
            stack.enter_context(redirect_stderr(sys.__stderr__))
        yield


def refuse_ranks(command: str | None) -> None:
    """Refuse a command that runs in one process.

    Raises:
        SettingError: torchrun started several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and command not in _DIVIDED:
        raise SettingError(
            f"birdbone {command or ''} runs in one process; start it without torchrun. Several "
            f"ranks are for {', '.join(_DIVIDED)}"
        )
