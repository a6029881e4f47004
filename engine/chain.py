"""Chains: links composed in order, run, observed, and rerouted on failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import modulink
from modulink import Context

from .. import __version__
from ..contexts.ranks import awaited, check_windows, is_first, shared_run, size, start, works_on
from ..errors import ChainError, LinkError, SettingError
from .calling import as_context, check_links, like, runs_on_every_rank
from .keeping import Store, current_store
from .naming import name_of, provided_by, spelled_link, spelled_settings, summary
from .notebook import chain_table
from .watching import Observer, in_thread, observers, running, settled
from .wiring import every_link, wire


class Chain(modulink.Chain):  # type: ignore[misc]  # modulink ships no types
    """Links in order, checked when composed; a drop-in for ``modulink.Chain`` and itself a link.

    Attributes:
        needs: keys the context must hold before the first link.
        adds: keys the chain's links add.
        open_ended: a link in it does not declare what it adds, so any key may be there after it.
    """

    def __init__(self, *links: Any, name: str = "chain") -> None:
        self.__name__ = name
        self._tied: list[tuple[Any, Any, tuple[str, ...]]] = []
        self.needs, self.adds, self.open_ended = wire(links)
        super().__init__(*links)

    @property
    def links(self) -> tuple[Any, ...]:
        """The links, in order."""
        return tuple(self._links)

    def __repr__(self) -> str:
        return f"Chain({', '.join([*map(summary, self.links), f'name={self.__name__!r}'])})"

    def _repr_html_(self) -> str:
        return chain_table(self.__name__, self.links)

    def add_link(self, link: Any) -> None:
        """Append a link; a wrong order is refused and leaves the chain unchanged."""
        self.needs, self.adds, self.open_ended = wire([*self._links, link])
        super().add_link(link)

    def use(self, middleware: Any, on_link: Any = None, position: str | None = None) -> None:
        """Attach middleware to the chain, or to one link with ``position`` 'before' or 'after'.

        Attached 'after' a link, it also receives that link's failure.
        """
        if on_link is None:
            super().use(middleware)
        elif position in ("before", "after"):
            hooks = ("before",) if position == "before" else ("after", "failed")
            self._tied.append((middleware, on_link, hooks))
        else:
            raise SettingError(f"position must be 'before' or 'after', found {position!r}")

    def connect(self, source: Any, target: Any, condition: Callable[[Any], bool]) -> None:
        """Run ``target`` instead if ``source`` fails and ``condition(ctx)`` is true.

        ``ctx["exception"]`` is the failure; ``target`` may be a link or a chain.
        """
        if source not in self._links:
            raise ChainError(
                f"no route can start at {name_of(source)}, which is not a link of this chain; "
                f"pass the object the chain holds"
            )
        wire([target])
        super().connect(source, target, condition)

    async def __call__(self, ctx: Mapping[str, Any]) -> dict[str, Any]:
        """Run as a link of another chain."""
        return await self.run(ctx)

    def check_given(self, ctx: Mapping[str, Any]) -> None:
        """Check that a context holds the keys the chain needs before its first link.

        Raises:
            ChainError: it does not.
        """
        for key in sorted(self.needs - ctx.keys()):
            needy = next(each for each in self._links if key in getattr(each, "needs", ()))
            raise ChainError(
                f"{name_of(needy)} needs '{key}', which no earlier link provides{provided_by(key)}"
            )

    async def run(self, ctx: Mapping[str, Any], *, store: Store | None = None) -> dict[str, Any]:
        """Run every link in order and return the last context; the input context is not changed.

        With a ``store`` every finished link is kept, those of nested chains too, and a link that
        ran before with the same settings on the same input is replayed. An inner run uses the store
        of the outer one.

        Raises:
            ChainError: the context lacks a key the chain needs, or the condition of a route failed.
            LinkError: a link failed and no route took it; ``__cause__`` is the reason.
        """
        if running.get() is not None:
            return await self._run(ctx, store)
        if awaited():
            await in_thread(start)
        with shared_run(__version__, [*map(spelled_link, self._links)]):
            self._check_for_ranks(store)
            return await self._run(ctx, store)

    async def _run(self, ctx: Mapping[str, Any], store: Store | None) -> dict[str, Any]:
        self.check_given(ctx)
        check_links(self._links, ctx)
        own = self._observers()
        token = observers.set((*observers.get(), *own))
        stored = current_store.set(current_store.get() if store is None else store)
        try:
            for place, each in enumerate(self._links, 1):
                before = ctx.keys()
                ctx = await self._step(each, ctx)
                if ctx.keys() - before:
                    check_windows(ctx, "calibration")
                    check_links(self._links[place:], ctx)
        except BaseException as error:
            for observer in own:
                await observer.notify("ended", self, ctx, error)
            raise
        finally:
            current_store.reset(stored)
            observers.reset(token)
        for observer in own:
            await observer.notify("ended", self, ctx, None)
        return cast("dict[str, Any]", ctx)

    def _check_for_ranks(self, store: Store | None) -> None:
        """Refuse what several ranks cannot do.

        Raises:
            ChainError: a route, or a link of rank 0 whose model the others would not receive.
        """
        if size() == 1:
            return
        if self._connections:
            raise ChainError("a chain with routes (connect) runs in one process only")
        for each in every_link(self._links):
            changes_model = "checkpoint" in getattr(each, "adds", ())
            if store is None and changes_model and not runs_on_every_rank(each):
                raise ChainError(
                    f"{name_of(each)} runs on rank 0 alone, which hands its model to the other "
                    f"ranks through a run folder; give run(..., store=RunFolder(DIR))"
                )

    def _observers(self) -> list[Observer]:
        """This run's own observers, without those that already observe the outer run.

        Only rank 0 is observed.
        """
        if not is_first():
            return []
        notes = Context()
        known = {id(observer.middleware) for observer in observers.get() if observer.on is None}
        whole = [Observer(each, notes) for each in self._middleware if id(each) not in known]
        return [*whole, *(Observer(each, notes, on, hooks) for each, on, hooks in self._tied)]

    async def _step(self, each: Any, ctx: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            result = await _attempt(each, ctx)
        except Exception as error:
            rescued = await self._rescue(each, ctx, error)
            if rescued is None:
                if isinstance(error, LinkError):
                    raise
                raise LinkError(name_of(each), spelled_settings(each), error) from error
            result = rescued
        for observer in sorted(observers.get(), key=lambda observer: observer.on is None):
            await observer.notify("after", each, ctx, result)
        return result

    async def _rescue(
        self, each: Any, ctx: Mapping[str, Any], error: Exception
    ) -> Mapping[str, Any] | None:
        """The result of the first `connect` route whose condition accepts this failure, if any."""
        failed = like(ctx, {**ctx, "exception": error})
        for route in self._connections:
            if route["source"] == each and _takes(route, failed):
                return await Chain(route["target"]).run(failed)
        return None


async def _attempt(each: Any, ctx: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run one link and report its start and failure to the observers."""
    token = running.set(each)
    works_on(name_of(each))
    try:
        for observer in observers.get():
            await observer.before(each, ctx)
        return as_context(each, await settled(each(like(ctx, ctx))))
    except BaseException as error:
        for observer in observers.get():
            await observer.notify("failed", each, ctx, error)
        raise
    finally:
        running.reset(token)


def _takes(route: Mapping[str, Any], failed: Mapping[str, Any]) -> bool:
    try:
        return bool(route["condition"](failed))
    except Exception as fault:
        way = f"'{name_of(route['source'])}' to '{name_of(route['target'])}'"
        reason = f"its condition raised {fault!r} on {failed['exception']!r}"
        raise ChainError(f"the route from {way} cannot be taken or left: {reason}") from fault


async def run(
    chain: Any, ctx: Mapping[str, Any] | None = None, *, store: Store | None = None
) -> dict[str, Any]:
    """Run a chain (or one link) from a context, by default an empty one; see `Chain.run`."""
    whole = chain if isinstance(chain, Chain) else Chain(chain)
    return await whole.run({} if ctx is None else ctx, store=store)
