"""A link: an async function with its settings, ready to be a step of a chain."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

from .calling import call
from .naming import chains_of, summary
from .settings import S

if TYPE_CHECKING:
    from .factories import LinkFactory


# A partial, because ModuLink awaits what `inspect.iscoroutinefunction` accepts: functions, bound
# methods and partials of these, but not objects with an async __call__.
class Link(partial[Coroutine[Any, Any, dict[str, Any]]], Generic[S]):
    """An async function with its settings: takes a context, returns it with the added keys.

    Attributes:
        factory: what made it, such as `prune`.
        settings: the validated settings.
        needs: keys the context must hold, those that chains among its settings need included.
        adds: keys the link adds.
        open_ended: its return type names no keys, so any key may be in the context after it.
    """

    __name__: str
    factory: LinkFactory[..., S, Any]
    settings: S
    needs: frozenset[str]
    adds: frozenset[str]
    open_ended: bool

    def __new__(cls, factory: LinkFactory[..., S, Any], settings: S) -> Link[S]:
        """Bind the settings; `LinkFactory.__call__` has validated them."""
        made = super().__new__(cls, factory.function)
        made.__name__ = factory.name
        made.__doc__ = factory.__doc__
        made.factory, made.settings = factory, settings
        made.needs, made.adds, made.open_ended = factory.needs, factory.adds, factory.open_ended
        for inner in chains_of(made).values():
            made.needs |= inner.needs
            made.open_ended |= inner.open_ended
        return made

    async def __call__(self, ctx: Mapping[str, Any], /) -> dict[str, Any]:
        """Run the link on a context; see `Chain.run` for watching, storing and replaying."""
        return await call(self, ctx)

    def __repr__(self) -> str:
        return summary(self)

    def __copy__(self) -> Link[S]:
        return self  # immutable

    def __deepcopy__(self, memo: Any) -> Link[S]:
        return self
