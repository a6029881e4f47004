"""Heavy work in threads: the loop stays free, cancelling stops the work, progress comes through."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from birdbone.engine import Chain, ProgressEvent, announce, in_thread, run
from birdbone.errors import Cancelled, GateError, LinkError

PATIENCE = 20  # seconds; reached only where a test would otherwise hang


class Work:
    """Announces one step after another until it is stopped, as a link's thread would."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.gone = threading.Event()
        self.stopped_by: BaseException | None = None

    def __call__(self) -> None:
        try:
            self.started.set()
            assert self.go_on.wait(PATIENCE)
            for step in range(10**9):
                announce("block", step)
        except Cancelled as error:
            self.stopped_by = error
            raise
        finally:
            self.gone.set()

    async def begun(self) -> None:
        assert await asyncio.to_thread(self.started.wait, PATIENCE)


async def test_arguments_and_results_pass_through() -> None:
    def divide(number: int, *, by: int) -> tuple[float, str]:
        return number / by, threading.current_thread().name

    result, thread = await in_thread(divide, 6, by=4)
    assert result == 1.5
    assert thread != threading.current_thread().name


async def test_an_error_in_the_thread_comes_out_as_it_is() -> None:
    def refuses() -> None:
        raise GateError("too light")

    async def gates(ctx: dict[str, Any]) -> Any:
        await in_thread(refuses)

    with pytest.raises(GateError, match="too light"):
        await in_thread(refuses)
    with pytest.raises(LinkError, match=r"^link 'gates' failed: too light$"):
        await run(Chain(gates))


async def test_the_loop_goes_on_while_the_thread_works() -> None:
    answered = threading.Event()

    async def answers() -> None:
        answered.set()

    def waits_for_the_loop() -> bool:
        return answered.wait(PATIENCE)

    works = asyncio.create_task(in_thread(waits_for_the_loop))
    await asyncio.create_task(answers())
    assert await works


async def test_cancelling_stops_at_the_next_announce_and_waits_for_the_thread() -> None:
    work = Work()

    async def heavy(ctx: dict[str, Any]) -> Any:
        await in_thread(work)

    task = asyncio.create_task(run(Chain(heavy)))
    await work.begun()
    task.cancel()
    asyncio.get_running_loop().call_soon(work.go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.gone.is_set()
    assert isinstance(work.stopped_by, Cancelled)
    assert "stopped at block 0" in str(work.stopped_by)


async def test_a_cancelled_thread_is_not_reported_as_a_lost_error() -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, report: reports.append(report))
    work = Work()
    task = asyncio.create_task(in_thread(work))
    await work.begun()
    task.cancel()
    work.go_on.set()
    await asyncio.wait([task])
    del task
    gc.collect()
    assert isinstance(work.stopped_by, Cancelled)
    assert reports == []


async def test_cancelling_twice_still_waits_for_the_thread() -> None:
    work = Work()
    task = asyncio.create_task(in_thread(work))
    await work.begun()
    for _ in range(3):
        task.cancel()
        await _turns(3)
        assert not task.done()
    work.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.gone.is_set()


async def _turns(number: int) -> None:
    """Let the loop turn over, so that a cancellation arrives where it was sent."""
    for _ in range(number):
        turned = asyncio.Event()
        asyncio.get_running_loop().call_soon(turned.set)
        await turned.wait()


async def test_work_that_ends_by_itself_after_cancelling_is_cancelled_all_the_same() -> None:
    work, leave = threading.Event(), threading.Event()

    def quick() -> str:
        work.set()
        assert leave.wait(PATIENCE)
        return "done"

    task = asyncio.create_task(in_thread(quick))
    assert await asyncio.to_thread(work.wait, PATIENCE)
    task.cancel()
    asyncio.get_running_loop().call_soon(leave.set)
    with pytest.raises(asyncio.CancelledError):
        await task


def _run_and_leave(work: Work, end: Callable[[], None]) -> None:
    async def main() -> None:
        task = asyncio.create_task(in_thread(work))
        await work.begun()
        asyncio.get_running_loop().call_soon(end)
        asyncio.get_running_loop().call_soon(work.go_on.set)
        await task

    asyncio.run(main())


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt; a shell lets its background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_stops_the_thread() -> None:
    work = Work()
    with pytest.raises(KeyboardInterrupt):
        _run_and_leave(work, lambda: signal.raise_signal(signal.SIGINT))
    assert work.gone.is_set()
    assert isinstance(work.stopped_by, Cancelled)


def test_a_loop_that_closes_stops_a_thread_left_behind() -> None:
    work = Work()
    left: list[asyncio.Task[None]] = []

    async def main() -> None:
        left.append(asyncio.create_task(in_thread(work)))
        await work.begun()
        work.go_on.set()

    asyncio.run(main())
    assert left[0].cancelled()
    assert isinstance(work.stopped_by, Cancelled)


async def test_a_cancelled_run_does_not_stop_its_neighbour() -> None:
    stopped, other = Work(), threading.Event()

    def neighbour() -> int:
        assert other.wait(PATIENCE)
        announce("block", 1)
        return 1

    first, second = asyncio.create_task(in_thread(stopped)), asyncio.create_task(
        in_thread(neighbour)
    )
    await stopped.begun()
    first.cancel()
    stopped.go_on.set()
    await asyncio.wait([first])
    other.set()
    assert await second == 1
    announce("outside", 1)


async def test_announce_in_a_thread_reaches_the_watchers_of_outer_chains() -> None:
    class Watches:
        def __init__(self) -> None:
            self.seen: list[tuple[str, ProgressEvent]] = []

        def progress(self, each: Any, event: ProgressEvent, mwctx: Any) -> None:
            self.seen.append((each.__name__, event))

    def two_blocks() -> None:
        announce("block", 1, 2)
        announce("block", 2, 2)

    async def heavy(ctx: dict[str, Any]) -> Any:
        await in_thread(two_blocks)
        return ctx

    outer, inner = Watches(), Watches()
    chain = Chain(heavy, name="inner")
    chain.use(inner)
    whole = Chain(chain)
    whole.use(outer)
    await run(whole)
    assert outer.seen == [("heavy", ProgressEvent("block", done, 2)) for done in (1, 2)]
    assert inner.seen == outer.seen


async def test_a_watcher_that_breaks_in_progress_does_not_stop_the_thread() -> None:
    class Breaks:
        def progress(self, each: Any, event: ProgressEvent, mwctx: Any) -> None:
            raise OSError("no terminal")

    async def heavy(ctx: dict[str, Any]) -> Any:
        await in_thread(announce, "block", 1)
        return {**ctx, "finished": True}

    chain = Chain(heavy)
    chain.use(Breaks())
    with pytest.warns(RuntimeWarning, match="Breaks failed in 'progress'.*no terminal"):
        assert (await run(chain))["finished"]


async def test_a_failure_in_the_thread_keeps_nothing_alive() -> None:
    class Tensor:
        pass

    def holds() -> None:
        tensor = Tensor()
        alive.append(weakref.ref(tensor))
        raise GateError("heavy")

    alive: list[weakref.ref[Tensor]] = []
    gc.disable()
    try:
        with pytest.raises(GateError):
            await in_thread(holds)
        assert alive[0]() is None
    finally:
        gc.enable()
