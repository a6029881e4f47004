"""What a link is, and how an async function becomes one whose settings are checked."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import (
    Any,
    Concatenate,
    Generic,
    NotRequired,
    ParamSpec,
    Protocol,
    Required,
    cast,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import pydantic

from ..contexts.forecast import Forecast
from ..errors import ChainError, SettingError, did_you_mean
from .calling import call
from .naming import chains_of, providers

P = ParamSpec("P")

Following = Callable[[Mapping[str, Any], Sequence[Any]], None]
Foresee = Callable[[Mapping[str, Any], Mapping[str, Any]], None]
Foretell = Callable[[Mapping[str, Any], Mapping[str, Any]], Forecast]
Outside = Callable[[Mapping[str, Any]], Any]
Stands = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]


class Link(Protocol):
    """What `@link` factories return: a coroutine function that knows its contract."""

    __name__: str
    factory: LinkFactory[...]
    settings: Mapping[str, Any]
    needs: frozenset[str]
    gives: frozenset[str]
    opens: bool

    async def __call__(self, ctx: Mapping[str, Any], /) -> dict[str, Any]: ...


class LinkFactory(Generic[P]):
    """One compression step waiting for its settings; calling it validates them and gives a `Link`.

    Attributes:
        name: the step's name, as recipes and ``--set`` spell it.
        schema: the pydantic model of its settings, read off the one signature.
        needs, gives: context keys, read off the TypedDict annotations; a link with a chain among
            its settings needs what that chain needs too, and promises only what it says itself.
        reads: all it may look at, optional keys too; None where no TypedDict says.
        opens: no TypedDict says what it gives, so any key may be there after it.
    """

    def __init__(
        self, function: Callable[Concatenate[Any, P], Awaitable[Mapping[str, Any]]]
    ) -> None:
        hints = get_type_hints(function, include_extras=True)
        first, *rest = inspect.signature(function).parameters.values()
        self.function = function
        self.name = self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self.needs = _required_keys(hints.get(first.name))
        self.reads = _all_keys(hints.get(first.name))
        self.gives = _required_keys(hints.get("return")) - {"metrics"}
        self.opens = not is_typeddict(hints.get("return"))
        self.schema = _schema(self.name, rest, hints)
        self.need_bytes: Callable[[Mapping[str, Any], Mapping[str, Any]], int] | None = None
        self.check: Foresee | None = None
        self.follows: Following | None = None
        self.foretell: Foretell | None = None
        self.outside: Outside | None = None
        self.stands: Stands | None = None
        for key in self.gives - self.needs:
            providers.setdefault(key, []).append(self.name)

    def memory(
        self, estimate: Callable[[Mapping[str, Any], Mapping[str, Any]], int]
    ) -> Callable[[Mapping[str, Any], Mapping[str, Any]], int]:
        """Decorator: state the bytes this link will need beyond its context, before it starts.

        ``estimate(ctx, settings)`` is what `GpuMemory` holds against the memory that is free.
        """
        self.need_bytes = estimate
        return estimate

    def foresee(self, check: Foresee) -> Foresee:
        """Decorator: refuse early what cannot work.

        ``check(ctx, settings)`` raises where it can tell from what the context holds so far. A
        chain asks when it starts and again whenever a link added keys, so that settings that do
        not fit the model or the text cost seconds, not the hours before their turn.
        """
        self.check = check
        return check

    def following(self, follows: Following) -> Following:
        """Decorator: refuse links that this one cannot follow, whatever the model and the text.

        ``follows(settings, earlier)`` raises `ChainError` where a chain is composed; ``earlier``
        are the links and functions before it in running order, as `every_link` gives them.
        """
        self.follows = follows
        return follows

    def forecast(self, foretell: Foretell) -> Foretell:
        """Decorator: say what the link would add, in outline, and how much work that is.

        ``foretell(ctx, settings)`` is asked before a run, of a context without values: checkpoints
        there have names, shapes and dtypes, and `Forecast` says how work is counted. A link that
        adds keys gives them, as far as links after it look at them; one that cannot know its sizes
        says ``guessed``, and then nothing after it refuses the run. A `BirdboneError` refuses the
        run, any other is told and ends the look there; of a link without a forecast, and of those
        after it, nothing is known. Memory beyond the context is what `memory` says, or
        ``need_bytes``::

            @upload.forecast
            def _foretell(ctx, settings):
                return Forecast(moved_bytes=ctx["checkpoint"].num_bytes, notes=("one copy",))
        """
        self.foretell = foretell
        return foretell

    def reading(self, outside: Outside) -> Outside:
        """Decorator: name what the link reads beside its context, such as the files of a model.

        ``outside(settings)`` gives plain values that change where that does; None says that it
        cannot be told, and then a store runs the link each time.
        """
        self.outside = outside
        return outside

    def leaving(self, stands: Stands) -> Stands:
        """Decorator: tell whether what the link left beside its context, as a folder, still stands.

        ``stands(ctx, added)`` is asked before a store replays the link; where it says no the link
        runs again.
        """
        self.stands = stands
        return stands

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Link:
        if args:
            found = reprlib.repr(args[0])
            raise SettingError(f"{self.name} takes settings by name only, found {found}")
        settings = self._validated(kwargs)

        async def bound(ctx: Mapping[str, Any], /) -> dict[str, Any]:
            return await call(cast(Link, bound), ctx)

        bound.__name__ = bound.__qualname__ = self.name
        bound.__doc__ = self.__doc__
        made = cast(Link, bound)
        made.factory, made.settings = cast("LinkFactory[...]", self), settings
        made.needs, made.gives, made.opens = self.needs, self.gives, self.opens
        for inner in chains_of(made).values():
            made.needs |= inner.needs
            made.opens |= inner.opens
        return made

    def _validated(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in settings:
            if name not in self.schema.model_fields:
                mend = did_you_mean(name, self.schema.model_fields)
                raise SettingError(f"{self.name} has no setting '{name}'; {mend}")
        try:
            model = self.schema(**settings)
        except pydantic.ValidationError as error:
            raise SettingError(_explain(self.name, error)) from None
        return MappingProxyType({name: getattr(model, name) for name in self.schema.model_fields})


def link(function: Callable[Concatenate[Any, P], Awaitable[Mapping[str, Any]]]) -> LinkFactory[P]:
    """Make an async function a link: ``prune`` becomes ``prune(sparsity=0.3)``, ready for a chain.

    The function's first parameter is annotated with the TypedDict of what it needs, its return
    with the TypedDict of what it adds; it returns only what it adds, and its context is a copy.
    A returned key ``metrics`` goes into the history's step record instead of the context.
    """
    if not inspect.iscoroutinefunction(function):
        name = getattr(function, "__name__", repr(function))
        raise ChainError(f"@link needs an async function; write 'async def {name}'")
    return LinkFactory(function)


def _schema(
    name: str, settings: Iterable[inspect.Parameter], hints: Mapping[str, Any]
) -> type[pydantic.BaseModel]:
    fields: dict[str, Any] = {}
    for each in settings:
        if each.kind is not each.KEYWORD_ONLY or each.name not in hints:
            raise ChainError(f"setting '{each.name}' of link {name} must be keyword-only and typed")
        fields[each.name] = (hints[each.name], ... if each.default is each.empty else each.default)
    config = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    return pydantic.create_model(name, __config__=config, **fields)


def _required_keys(annotation: Any) -> frozenset[str]:
    """The keys a TypedDict requires; none for any other annotation."""
    if not is_typeddict(annotation):
        return frozenset()
    # __required_keys__ misses these two markers where a module's annotations are strings.
    marks = {k: get_origin(h) for k, h in get_type_hints(annotation, include_extras=True).items()}
    required = {key for key, mark in marks.items() if mark is Required}
    optional = {key for key, mark in marks.items() if mark is NotRequired}
    return frozenset((annotation.__required_keys__ | required) - optional)


def _all_keys(annotation: Any) -> frozenset[str] | None:
    """Every key a TypedDict knows; None for any other annotation."""
    return frozenset(get_type_hints(annotation)) if is_typeddict(annotation) else None


def _explain(name: str, error: pydantic.ValidationError) -> str:
    found = []
    for fault in error.errors():
        setting = ".".join(str(part) for part in fault["loc"])
        value = "" if fault["type"] == "missing" else f"={fault['input']!r}"
        found.append(f"{name}({setting}{value}): {fault['msg']}")
    return "; ".join(found)
