"""A signal stops a run at the next block; what it says of the output is true."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from birdbone.commands.stopping import Stopped, run_until_stopped
from birdbone.contexts.flow import Empty
from birdbone.engine import Chain, announce, in_thread, link
from birdbone.errors import LinkError, ModelError
from birdbone.journal import RunFolder


@link
async def stopped_by(ctx: Empty, *, number: int) -> dict[str, Any]:
    """A link that is sent a signal while it works in a thread, and looks at each block."""

    def work() -> None:
        os.kill(os.getpid(), number)
        waiting = threading.Event()
        for block in range(10_000):
            announce("blocks", block, 10_000)  # raises once the run is cancelled
            waiting.wait(0.001)

    await in_thread(work)
    return {}


@link
async def save(ctx: Empty, *, path: str, format: str = "auto") -> dict[str, Any]:
    """Writes a folder, as the link of that name does: by renaming one into place."""
    await in_thread(renamed_into_place, Path(path))
    return {}


def renamed_into_place(target: Path) -> None:
    made = target.with_suffix(".made")
    made.mkdir()
    if target.exists():
        target.rename(target.with_suffix(".old"))
    made.rename(target)


@link
async def fails(ctx: Empty, *, bug: bool = False) -> dict[str, Any]:
    raise ZeroDivisionError if bug else ModelError("no such model")


@link
async def adds(ctx: Empty) -> dict[str, Any]:
    return {"added": 7}


@pytest.fixture
def handlers() -> Any:
    """The handlers of a process are those of Python again; this one's own are put back."""
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {each: signal.signal(each, handler) for each, handler in wanted.items()}
    yield
    found = {each: signal.getsignal(each) for each in wanted}
    for each, handler in before.items():
        signal.signal(each, handler)
    assert found == wanted


def test_what_a_chain_adds(handlers: None) -> None:
    told: list[str] = []
    assert run_until_stopped(Chain(adds()), tell=told.append)["added"] == 7
    assert told == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal(number: signal.Signals, handlers: None) -> None:
    told: list[str] = []
    with pytest.raises(Stopped) as stopped:
        run_until_stopped(Chain(adds(), stopped_by(number=int(number))), tell=told.append)
    assert stopped.value.number == number
    assert str(stopped.value) == "stopped at the next block; nothing was written"
    assert told == ["stopping at the next block"]


@pytest.mark.parametrize("before", [False, True])
def test_what_was_written_is_complete(before: bool, tmp_path: Path) -> None:
    """Also where it took the place of an earlier output."""
    out = tmp_path / "light"
    if before:
        out.mkdir()
    chain = Chain(save(path=str(out)), stopped_by(number=int(signal.SIGTERM)))
    with pytest.raises(Stopped, match="next block; what had been saved is complete"):
        run_until_stopped(chain, tell=lambda _: None)


def test_an_output_of_an_earlier_run_is_not_of_this_one(tmp_path: Path) -> None:
    out = tmp_path / "light"
    out.mkdir()
    chain = Chain(stopped_by(number=int(signal.SIGTERM)), save(path=str(out)))
    with pytest.raises(Stopped, match="nothing was written"):
        run_until_stopped(chain, tell=lambda _: None)


def test_finished_links_are_kept(tmp_path: Path) -> None:
    chain = Chain(adds(), stopped_by(number=int(signal.SIGINT)))
    resumes = pytest.raises(Stopped, match=r"links are kept in .*, and the same command resumes")
    with RunFolder(tmp_path / "run") as store, resumes:
        run_until_stopped(chain, tell=lambda _: None, store=store)


def test_failures_are_no_stops(handlers: None) -> None:
    with pytest.raises(LinkError, match="no such model"):
        run_until_stopped(Chain(fails()), tell=lambda _: None)
    with pytest.raises(LinkError, match="ZeroDivisionError"):
        run_until_stopped(Chain(fails(bug=True)), tell=lambda _: None)
