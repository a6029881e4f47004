"""Run a chain from the command line: estimate, middleware, run folder, report."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer

from .look_ahead import look_ahead, tell_after, tell_ahead
from .options import LogFormat, WandbRun
from .run_store import beside_output, check_start, run_store
from .silence import speak_for_lost

if TYPE_CHECKING:
    from ..contexts.forecast import Preflight
    from ..engine import Chain
    from ..journal import RunFolder


@dataclass(frozen=True)
class Execution:
    """How a chain is run and reported; see the options of ``birdbone run``."""

    run_folder: Path | None = None
    keep: bool = True
    start_from: str | None = None
    dry_run: bool = False
    device_memory: str | None = None
    as_json: bool = False
    quiet: bool = False
    log: LogFormat | None = None
    wandb: WandbRun | None = None
    threads: int | None = None


class Tell(Protocol):
    """Prints the result of a finished run."""

    def __call__(
        self, found: Preflight | None, result: Mapping[str, Any], *, as_json: bool
    ) -> None: ...


def execute(assemble: Callable[[], Chain], how: Execution, *, tell: Tell = tell_after) -> None:
    """Assemble a chain, estimate its cost, run it and print the result.

    Args:
        assemble: makes the chain; its warnings are printed as notes.
        tell: prints the result.
    """
    _use_threads(how.threads)
    from ..checkpoints import ranks
    from ..reports.terminal import quiet_libraries, warnings_as_notes

    with ExitStack() as stack:
        stack.enter_context(warnings_as_notes(as_json=how.log == "json"))
        stack.enter_context(quiet_libraries())
        stack.enter_context(redirect_stdout(sys.stderr))  # stdout is reserved for the result
        ranks.start()
        chain = assemble()
        silent = how.quiet or how.as_json or how.log is not None
        asked = how.run_folder is not None
        folder = how.run_folder if asked or not how.keep else beside_output(chain)
        check_start(chain, how.start_from, folder)
        expected = ranks.only_first(
            lambda: look_ahead(
                chain, folder, dry_run=how.dry_run, quiet=silent, device_memory=how.device_memory
            )
        )
        result: dict[str, Any] = {}
        if not how.dry_run:
            for each in _middleware(how):
                chain.use(each)
            with run_store(
                folder, asked=asked, start_from=how.start_from, expected=expected
            ) as store:
                result = _run(chain, store)
    if not ranks.is_first():
        return
    if how.dry_run:
        tell_ahead(expected, as_json=how.as_json)
    else:
        tell(expected, result, as_json=how.as_json)


def _run(chain: Chain, store: RunFolder | None) -> dict[str, Any]:
    from ..reports.terminal import say
    from .stopping import Stopped, run_until_stopped

    try:
        return run_until_stopped(chain, tell=lambda words: say("birdbone", words), store=store)
    except Stopped as stopped:
        with speak_for_lost():
            say("birdbone", str(stopped))
        raise typer.Exit(128 + stopped.number) from None


def _use_threads(threads: int | None) -> None:
    """Set the thread count, also for fresh processes, which inherit the environment."""
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        torch.set_num_threads(threads)


def _middleware(how: Execution) -> list[Any]:
    """The middleware of a run. Structured log lines replace the other lines."""
    from .. import middleware

    lines = not how.quiet and how.log is None
    chosen: list[Any] = [middleware.Progress()] if lines and not how.as_json else []
    if lines:
        chosen += [middleware.Timing(), middleware.GpuMemory()]
    else:
        chosen.append(middleware.GpuMemory(write=lambda line: None))
    if how.log is not None:
        chosen.append(middleware.Logging(renderer=how.log))
    if how.wandb is not None:
        chosen.append(middleware.WandbLogging(**asdict(how.wandb)))
    return chosen
