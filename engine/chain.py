"""Links in order: composed, watched, rescued and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import modulink
from modulink import Context

from ..errors import ChainError, LinkError, SettingError
from .calling import as_context, foresee, like
from .keeping import Store, current_store
from .naming import mend, name_of, spelled_settings
from .watching import Observer, observers, running, settled
from .wiring import wire


class Chain(modulink.Chain):  # type: ignore[misc]  # modulink ships no types
    """Links in order, checked when composed; a drop-in for ``modulink.Chain`` and itself a link.

    Attributes:
        needs: keys the context must hold before the first link.
        gives: keys the chain's links add.
        opens: a link in it does not say what it gives, so any key may be there after it.
    """

    def __init__(self, *links: Any, name: str = "chain") -> None:
        self.__name__ = name
        self._tied: list[tuple[Any, Any, tuple[str, ...]]] = []
        self.needs, self.gives, self.opens = wire(links)
        super().__init__(*links)

    @property
    def links(self) -> tuple[Any, ...]:
        """The links, in order."""
        return tuple(self._links)

    def add_link(self, link: Any) -> None:
        """Append a link; refused, and the chain left as it was, where the order would be wrong."""
        self.needs, self.gives, self.opens = wire([*self._links, link])
        super().add_link(link)

    def use(self, middleware: Any, on_link: Any = None, position: str | None = None) -> None:
        """Attach middleware to the chain, or to one link with ``position`` 'before' or 'after'.

        Attached 'after' a link, it hears of that link's failure too.
        """
        if on_link is None:
            super().use(middleware)
        elif position in ("before", "after"):
            hooks = ("before",) if position == "before" else ("after", "failed")
            self._tied.append((middleware, on_link, hooks))
        else:
            raise SettingError(f"position must be 'before' or 'after', found {position!r}")

    def connect(self, source: Any, target: Any, condition: Callable[[Any], bool]) -> None:
        """Let ``target`` take over where ``source`` fails and ``condition(ctx)`` holds.

        ``ctx["exception"]`` is the failure; ``target`` may be a link or a chain.
        """
        if source not in self._links:
            mend = "pass the very object the chain holds"
            raise ChainError(
                f"no route can start at {name_of(source)}, no link of this chain; {mend}"
            )
        wire([target])
        super().connect(source, target, condition)

    async def __call__(self, ctx: Mapping[str, Any]) -> dict[str, Any]:
        """Run as a link of another chain."""
        return await self.run(ctx)

    def check_given(self, ctx: Mapping[str, Any]) -> None:
        """See that a context holds what the chain needs before its first link.

        Raises:
            ChainError: it does not.
        """
        for key in sorted(self.needs - ctx.keys()):
            needy = next(each for each in self._links if key in getattr(each, "needs", ()))
            raise ChainError(
                f"{name_of(needy)} needs '{key}', which nothing before it gives{mend(key)}"
            )

    async def run(self, ctx: Mapping[str, Any], *, store: Store | None = None) -> dict[str, Any]:
        """Run every link in order and return the last context; the one given stays as it was.

        With a ``store`` every finished link, those of nested chains too, is kept, and one that ran
        before with the same settings on the same is replayed. An inner run uses the outer's store.

        Raises:
            ChainError: the context lacks what the chain needs, or a route cannot be judged.
            LinkError: a link failed and no route took it; ``__cause__`` is the reason.
        """
        self.check_given(ctx)
        foresee(self._links, ctx)
        own = self._watchers()
        token = observers.set((*observers.get(), *own))
        stored = current_store.set(current_store.get() if store is None else store)
        try:
            for place, each in enumerate(self._links, 1):
                before = ctx.keys()
                ctx = await self._step(each, ctx)
                if ctx.keys() - before:
                    foresee(self._links[place:], ctx)
        except BaseException as error:
            for observer in own:
                await observer.tell("ended", self, ctx, error)
            raise
        finally:
            current_store.reset(stored)
            observers.reset(token)
        for observer in own:
            await observer.tell("ended", self, ctx, None)
        return cast("dict[str, Any]", ctx)

    def _watchers(self) -> list[Observer]:
        """This run's own observers; an object that watches the outer run already is not doubled."""
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
            await observer.tell("after", each, ctx, result)
        return result

    async def _rescue(
        self, each: Any, ctx: Mapping[str, Any], error: Exception
    ) -> Mapping[str, Any] | None:
        """The result of the first `connect` route whose condition takes this failure, if any."""
        failed = like(ctx, {**ctx, "exception": error})
        for route in self._connections:
            if route["source"] == each and _takes(route, failed):
                return await Chain(route["target"]).run(failed)
        return None


async def _attempt(each: Any, ctx: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run one link under the eyes of whoever watches; they hear of its failure."""
    token = running.set(each)
    try:
        for observer in observers.get():
            await observer.before(each, ctx)
        return as_context(each, await settled(each(like(ctx, ctx))))
    except BaseException as error:
        for observer in observers.get():
            await observer.tell("failed", each, ctx, error)
        raise
    finally:
        running.reset(token)


def _takes(route: Mapping[str, Any], failed: Mapping[str, Any]) -> bool:
    try:
        return bool(route["condition"](failed))
    except Exception as fault:
        way = f"'{name_of(route['source'])}' to '{name_of(route['target'])}'"
        reason = f"its condition raised {fault!r} when asked about {failed['exception']!r}"
        raise ChainError(f"the route from {way} cannot be judged: {reason}") from fault


async def run(
    chain: Any, ctx: Mapping[str, Any] | None = None, *, store: Store | None = None
) -> dict[str, Any]:
    """Run a chain (or one link) from a context, by default an empty one; see `Chain.run`."""
    whole = chain if isinstance(chain, Chain) else Chain(chain)
    return await whole.run({} if ctx is None else ctx, store=store)
