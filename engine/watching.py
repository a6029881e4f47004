"""Observers of a run, progress events, and the worker threads links run in."""

from __future__ import annotations

import asyncio
import inspect
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from modulink import Context

from ..contexts.ranks import check_peers, stopping
from ..errors import Cancelled

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class ProgressEvent:
    """Progress of a link: ``done`` of ``total`` (None if unknown) items called ``label``.

    ``loss``: of the step that was just trained, in training.
    """

    label: str
    done: int
    total: int | None
    loss: float | None = None


@dataclass
class Observer:
    """A middleware object observing one run and those nested in it.

    Attributes:
        notes: modulink's middleware context, shared by all middleware of the run.
        on: the link it is attached to; None for the whole chain.
        hooks: the hooks it receives of that link.
        dropped: it raised an error and is called no more.
    """

    middleware: Any
    notes: Context
    on: Any = None
    hooks: tuple[str, ...] = ()
    dropped: bool = False

    def call(self, hook: str, each: Any, *about: Any) -> Any:
        """Call the hook, if the middleware has it and observes this link."""
        concerned = self.on is None or (self.on == each and hook in self.hooks)
        method = getattr(self.middleware, hook, None)
        if method is None or self.dropped or not concerned:
            return None
        return method(each, *about, self.notes)

    async def before(self, each: Any, ctx: Mapping[str, Any]) -> None:
        """Report a link about to run; an error here stops the link, naming the middleware."""
        try:
            await settled(self.call("before", each, ctx))
        except Exception as error:
            error.add_note(f"raised by middleware {type(self.middleware).__name__} before the link")
            raise

    async def notify(self, hook: str, each: Any, *about: Any) -> None:
        """Report what happened; an observer that fails is dropped and the run goes on."""
        try:
            await settled(self.call(hook, each, *about))
        except Exception as error:  # noqa: BLE001 - a faulty observer must not lose finished work
            self.drop(hook, error)

    def drop(self, hook: str, error: Exception) -> None:
        """Stop calling the middleware, with a warning."""
        self.dropped = True
        name = type(self.middleware).__name__
        warnings.warn(
            f"middleware {name} failed in '{hook}' and is disabled for this run: {error!r}",
            RuntimeWarning,
            stacklevel=2,
        )


async def settled(result: Any) -> Any:
    """The result, awaited if it is awaitable."""
    return await result if inspect.isawaitable(result) else result


observers: ContextVar[tuple[Observer, ...]] = ContextVar("observers", default=())
running: ContextVar[Any] = ContextVar("running", default=None)


def announce(label: str, done: int, total: int | None = None, loss: float | None = None) -> None:
    """Report the progress of the running link; also the point where a cancelled link stops.

    Call it once per block or batch, from the link's thread or its coroutine.

    Raises:
        Cancelled: the surrounding task was cancelled.
        RankError: on several ranks, another one is lost.
    """
    stop = stopping.get()
    if stop is not None and stop.is_set():
        raise Cancelled(f"stopped at {label} {done}")
    check_peers()
    for observer in observers.get():
        try:
            observer.call("progress", running.get(), ProgressEvent(label, done, total, loss))
        except Exception as error:  # noqa: BLE001 - see Observer.notify
            observer.drop("progress", error)


async def in_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run heavy work in a worker thread so that the event loop stays responsive.

    Cancelling the awaiting task stops the work at its next `announce` and waits until it has
    ended. Grad mode is per thread: set it inside ``function``.
    """
    stop, context = threading.Event(), copy_context()
    context.run(stopping.set, stop)
    call = partial(context.run, function, *args, **kwargs)
    work = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        await asyncio.wait([work])
        return work.result()
    except asyncio.CancelledError:
        stop.set()
        while not work.done():
            with suppress(asyncio.CancelledError):  # cancelled again: already stopping
                await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # retrieved, so that asyncio does not report it as lost
        raise
    finally:
        del work  # its error's traceback holds this frame: a cycle that keeps tensors alive
