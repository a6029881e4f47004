"""The whole contract in one file: what a link is, how links become a chain, how a chain runs.

A **link** is one async function: context in, settings by keyword, additions out. ``@link`` makes
it a factory that checks settings when called and wiring when composed. A **chain** is a
``modulink.Chain`` whose failures surface, which refuses a wrong order before any weight is loaded,
and which is itself a link. **Middleware** is any object with modulink's ``before`` and ``after``
and, if it likes, ``failed``, ``replayed``, ``progress`` (not async: it is told from worker
threads) and ``ended``. What fails in ``before`` stops the link; what fails elsewhere is dropped
with a warning. A **store** keeps what links leave, so that a run can go on where it stopped.

Where modulink-py 4.0.3 behaves otherwise: a failing link raises `LinkError` instead of hiding in
``ctx["exception"]``; whatever a link returns is awaited if it can be; nothing is written on
middleware objects or link functions, so one object may watch two runs at once. A link that a
`connect` route rescues is told as ``failed`` and then, with the rescuer's result, as ``after``;
between the two the rescuer is watched as any link is.

Longer than the house likes, because the contract is one thing and is read in one go.
"""

from __future__ import annotations

import asyncio
import inspect
import reprlib
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import (
    Any,
    Concatenate,
    Generic,
    NotRequired,
    ParamSpec,
    Protocol,
    Required,
    TypeVar,
    cast,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import modulink
import pydantic
from modulink import Context
from torch import Tensor

from .contexts.cost import Meter
from .contexts.forecast import Forecast
from .contexts.steps import Step
from .errors import Cancelled, ChainError, LinkError, SettingError, did_you_mean

P = ParamSpec("P")
R = TypeVar("R")

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
Foresee = Callable[[Mapping[str, Any], Mapping[str, Any]], None]
Foretell = Callable[[Mapping[str, Any], Mapping[str, Any]], Forecast]
Outside = Callable[[Mapping[str, Any]], Any]
Stands = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]

_providers: dict[str, list[str]] = {}


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
        self.foretell: Foretell | None = None
        self.outside: Outside | None = None
        self.stands: Stands | None = None
        for key in self.gives - self.needs:
            _providers.setdefault(key, []).append(self.name)

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

    def forecast(self, foretell: Foretell) -> Foretell:
        """Decorator: say what the link would add, in outline, and how much work that is.

        ``foretell(ctx, settings)`` is asked before a run, of a context without values: what it
        reads there are shapes.
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
            return await _call(cast(Link, bound), ctx)

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


def chains_of(each: Any) -> dict[str, Chain]:
    """Those settings of a link that are chains, by name: what it runs itself, as waves does."""
    settings: Mapping[str, Any] = getattr(each, "settings", {})
    return {name: value for name, value in settings.items() if isinstance(value, Chain)}


def chain_settings(factory: LinkFactory[...]) -> list[str]:
    """Names of the settings that must be chains."""
    fields = factory.schema.model_fields.items()
    return [name for name, field in fields if field.annotation is Chain]


def spelled_settings(each: Any) -> dict[str, Any]:
    """A link's settings as plain data: a chain among them as a recipe lists its links."""
    settings: Mapping[str, Any] = getattr(each, "settings", {})
    chains = {name: _spelled_links(chain) for name, chain in chains_of(each).items()}
    return {**settings, **chains}


def _spelled_links(chain: Chain) -> list[Any]:
    return [_spelled_link(each) for each in chain.links]


def _spelled_link(each: Any) -> Any:
    if isinstance(each, Chain):
        return {"name": each.__name__, "links": _spelled_links(each)}
    settings = spelled_settings(each)
    return {_name(each): settings} if settings else _name(each)


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


async def _call(step: Link, ctx: Mapping[str, Any]) -> dict[str, Any]:
    """Run a link's function, or replay it from the store; merge what it adds into a new context."""
    for key in sorted(step.needs - ctx.keys()):
        raise ChainError(f"{step.__name__} needs '{key}', which the context lacks{_mend(key)}")
    _foresee([step], ctx)
    store = _store.get()
    place = None if store is None else await in_thread(store.place, step, ctx)
    outcome = None if place is None else await in_thread(place.replay)
    if outcome is None:
        outcome = await _outcome(step, ctx, place)
    else:
        for observer in _observers.get():
            await observer.tell("replayed", step, ctx, outcome.steps[-1])
    history = (*ctx.get("history", ()), *outcome.steps)
    return _like(ctx, {**ctx, **outcome.added, "history": history})


async def _outcome(step: Link, ctx: Mapping[str, Any], place: Place | None) -> Outcome:
    """Run a link's function on a copy of the context; with a place, what it leaves is kept."""
    meter, token = Meter(), _unfinished.set(place)
    try:
        result = await step.factory.function(dict(ctx), **step.settings)
    finally:
        _unfinished.reset(token)
    added = dict(_as_context(step, result))
    metrics = added.pop("metrics", {})
    for key in sorted(step.gives - added.keys()):
        raise ChainError(f"{step.__name__} promises '{key}' but did not return it")
    checkpoint = added.get("checkpoint", ctx.get("checkpoint"))
    # An id is the hash of every tensor: work for a thread, and part of what the link costs.
    identity = None if checkpoint is None else await in_thread(_identity, checkpoint)
    cost, settings = meter.stop(), spelled_settings(step)  # can be pickled, as a proxy cannot
    inner = added.pop("history", ())[len(ctx.get("history", ())) :]
    record = Step(step.__name__, settings, cost, metrics, identity)
    outcome = Outcome(added, (*inner, record))
    return outcome if place is None else await in_thread(place.publish, outcome)


def _identity(checkpoint: Any) -> str | None:
    return getattr(checkpoint, "id", None)


def _foresee(links: Iterable[Any], ctx: Mapping[str, Any]) -> None:
    """Ask links and those of chains in them whether they can see already that they will fail."""
    for each in links:
        for inner in [each] if isinstance(each, Chain) else chains_of(each).values():
            _foresee(inner.links, ctx)
        if (check := getattr(getattr(each, "factory", None), "check", None)) is not None:
            try:
                check(ctx, each.settings)
            except Exception as error:
                raise LinkError(_name(each), spelled_settings(each), error) from error


def _mend(key: str) -> str:
    names = [f"{name}()" for name in dict.fromkeys(_providers.get(key, []))]
    return f"; {' or '.join(names)} provides it" if names else ""


def _as_context(each: Any, result: Any) -> Mapping[str, Any]:
    if not isinstance(result, Mapping):
        kind = type(result).__name__
        raise ChainError(f"link '{_name(each)}' returned {kind}; a link returns a context dict")
    return result


def _like(ctx: Mapping[str, Any], items: Mapping[str, Any]) -> dict[str, Any]:
    """A new context of the caller's kind: modulink's Context stays one, a dict stays a dict."""
    return type(ctx)(items) if isinstance(ctx, Context) else dict(items)


def _name(each: Any) -> str:
    return str(getattr(each, "__name__", type(each).__name__))


@dataclass(frozen=True)
class Progress:
    """How far a link is: ``done`` of ``total`` (None when unknown) things called ``label``."""

    label: str
    done: int
    total: int | None


class Unfinished(Protocol):
    """A running link's own place for work in progress, gone once the link's outcome is kept."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and facts last saved under the very same key; None where there are none."""

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep tensors and facts that JSON knows instead of the last; whole or not at all."""


@dataclass(frozen=True)
class Outcome:
    """What a link that ran leaves.

    Attributes:
        added: what goes into the context.
        steps: its record, last; before it those of links it ran itself.
    """

    added: Mapping[str, Any]
    steps: tuple[Step, ...]


class Place(Unfinished, Protocol):
    """Where a store keeps one link's outcome: known by the link, its settings and what it read."""

    def replay(self) -> Outcome | None:
        """What the link left when it ran on the same; None where it has to run."""

    def publish(self, outcome: Outcome) -> Outcome:
        """Keep what the link left; returns it as `replay` will."""


class Store(Protocol):
    """Keeps what links leave; all its methods, and its places', are called from worker threads."""

    def place(self, step: Link, ctx: Mapping[str, Any]) -> Place | None:
        """The place of a link on a context; None for a link that is to run each time."""


class _Nowhere:
    """Where work in progress goes in a run without a store."""

    def load(self) -> None:
        """There never is any."""

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep nothing."""


def unfinished() -> Unfinished:
    """The running link's place for work in progress; it keeps nothing where the run has no store.

    May be asked for in the link's coroutine or its worker thread. How often to save is the link's
    to decide; a link that goes on from what it loads must end in the same bytes as an unbroken one.
    """
    return _unfinished.get() or _Nowhere()


@dataclass
class _Observer:
    """A middleware object watching one run and those nested in it, with that run's shared notes.

    ``on`` ties it to one link and ``hooks`` names what it hears of that one.
    """

    middleware: Any
    notes: Context
    on: Any = None
    hooks: tuple[str, ...] = ()
    dropped: bool = False

    def call(self, hook: str, each: Any, *about: Any) -> Any:
        """Call the hook, where there is one and this link concerns the observer."""
        concerned = self.on is None or (self.on == each and hook in self.hooks)
        method = getattr(self.middleware, hook, None)
        if method is None or self.dropped or not concerned:
            return None
        return method(each, *about, self.notes)

    async def before(self, each: Any, ctx: Mapping[str, Any]) -> None:
        """Tell of a link about to run; an error here stops the link, naming the middleware."""
        try:
            await _settled(self.call("before", each, ctx))
        except Exception as error:
            error.add_note(f"raised by middleware {type(self.middleware).__name__} before the link")
            raise

    async def tell(self, hook: str, each: Any, *about: Any) -> None:
        """Tell what happened; an observer that breaks is dropped and the run goes on."""
        try:
            await _settled(self.call(hook, each, *about))
        except Exception as error:  # noqa: BLE001 - watching must not cost the work that is done
            self.drop(hook, error)

    def drop(self, hook: str, error: Exception) -> None:
        """Listen no more, and say so."""
        self.dropped = True
        name = type(self.middleware).__name__
        message = f"middleware {name} failed in '{hook}' and watches this run no more: {error!r}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)


async def _settled(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


_observers: ContextVar[tuple[_Observer, ...]] = ContextVar("observers", default=())
_running: ContextVar[Any] = ContextVar("running", default=None)
_store: ContextVar[Store | None] = ContextVar("store", default=None)
_unfinished: ContextVar[Unfinished | None] = ContextVar("unfinished", default=None)
_stop: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


def announce(label: str, done: int, total: int | None = None) -> None:
    """Tell whoever watches how far this link is; also the point where a cancelled link stops.

    Call it once per block or batch, from the link's thread or its coroutine.

    Raises:
        Cancelled: the surrounding task was cancelled.
    """
    stop = _stop.get()
    if stop is not None and stop.is_set():
        raise Cancelled(f"stopped at {label} {done}")
    for observer in _observers.get():
        try:
            observer.call("progress", _running.get(), Progress(label, done, total))
        except Exception as error:  # noqa: BLE001 - see _Observer.tell
            observer.drop("progress", error)


async def in_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run heavy work in a worker thread so that the event loop stays responsive.

    Cancelling the awaiting task stops the work at its next `announce` and waits for it to be
    gone. Grad mode is per thread: set it inside ``function``.
    """
    stop, context = threading.Event(), copy_context()
    context.run(_stop.set, stop)
    call = partial(context.run, function, *args, **kwargs)
    work = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        await asyncio.wait([work])
        return work.result()
    except asyncio.CancelledError:
        stop.set()
        while not work.done():
            with suppress(asyncio.CancelledError):  # cancelled again: already on the way out
                await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # retrieved, so that asyncio does not report it as lost
        raise
    finally:
        del work  # its error's traceback holds this frame: a cycle that would keep tensors alive


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
        self.needs, self.gives, self.opens = _wire(links)
        super().__init__(*links)

    @property
    def links(self) -> tuple[Any, ...]:
        """The links, in order."""
        return tuple(self._links)

    def add_link(self, link: Any) -> None:
        """Append a link; refused, and the chain left as it was, where the order would be wrong."""
        self.needs, self.gives, self.opens = _wire([*self._links, link])
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
                f"no route can start at {_name(source)}, no link of this chain; {mend}"
            )
        _wire([target])
        super().connect(source, target, condition)

    async def __call__(self, ctx: Mapping[str, Any]) -> dict[str, Any]:
        """Run as a link of another chain."""
        return await self.run(ctx)

    async def run(self, ctx: Mapping[str, Any], *, store: Store | None = None) -> dict[str, Any]:
        """Run every link in order and return the last context; the one given stays as it was.

        With a ``store`` every finished link, those of nested chains too, is kept, and one that ran
        before with the same settings on the same is replayed. An inner run uses the outer's store.

        Raises:
            ChainError: the context lacks what the chain needs, or a route cannot be judged.
            LinkError: a link failed and no route took it; ``__cause__`` is the reason.
        """
        for key in sorted(self.needs - ctx.keys()):
            needy = next(each for each in self._links if key in getattr(each, "needs", ()))
            raise ChainError(
                f"{_name(needy)} needs '{key}', which nothing before it gives{_mend(key)}"
            )
        _foresee(self._links, ctx)
        own = self._watchers()
        token = _observers.set((*_observers.get(), *own))
        stored = _store.set(_store.get() if store is None else store)
        try:
            for place, each in enumerate(self._links, 1):
                before = ctx.keys()
                ctx = await self._step(each, ctx)
                if ctx.keys() - before:
                    _foresee(self._links[place:], ctx)
        except BaseException as error:
            for observer in own:
                await observer.tell("ended", self, ctx, error)
            raise
        finally:
            _store.reset(stored)
            _observers.reset(token)
        for observer in own:
            await observer.tell("ended", self, ctx, None)
        return cast("dict[str, Any]", ctx)

    def _watchers(self) -> list[_Observer]:
        """This run's own observers; an object that watches the outer run already is not doubled."""
        notes = Context()
        known = {id(observer.middleware) for observer in _observers.get() if observer.on is None}
        whole = [_Observer(each, notes) for each in self._middleware if id(each) not in known]
        return [*whole, *(_Observer(each, notes, on, hooks) for each, on, hooks in self._tied)]

    async def _step(self, each: Any, ctx: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            result = await _attempt(each, ctx)
        except Exception as error:
            rescued = await self._rescue(each, ctx, error)
            if rescued is None:
                if isinstance(error, LinkError):
                    raise
                raise LinkError(_name(each), spelled_settings(each), error) from error
            result = rescued
        for observer in sorted(_observers.get(), key=lambda observer: observer.on is None):
            await observer.tell("after", each, ctx, result)
        return result

    async def _rescue(
        self, each: Any, ctx: Mapping[str, Any], error: Exception
    ) -> Mapping[str, Any] | None:
        """The result of the first `connect` route whose condition takes this failure, if any."""
        failed = _like(ctx, {**ctx, "exception": error})
        for route in self._connections:
            if route["source"] == each and _takes(route, failed):
                return await Chain(route["target"]).run(failed)
        return None


async def _attempt(each: Any, ctx: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run one link under the eyes of whoever watches; they hear of its failure."""
    token = _running.set(each)
    try:
        for observer in _observers.get():
            await observer.before(each, ctx)
        return _as_context(each, await _settled(each(_like(ctx, ctx))))
    except BaseException as error:
        for observer in _observers.get():
            await observer.tell("failed", each, ctx, error)
        raise
    finally:
        _running.reset(token)


def _takes(route: Mapping[str, Any], failed: Mapping[str, Any]) -> bool:
    try:
        return bool(route["condition"](failed))
    except Exception as fault:
        way = f"'{_name(route['source'])}' to '{_name(route['target'])}'"
        reason = f"its condition raised {fault!r} when asked about {failed['exception']!r}"
        raise ChainError(f"the route from {way} cannot be judged: {reason}") from fault


def _wire(row: Sequence[Any]) -> tuple[frozenset[str], frozenset[str], bool]:
    """What a row of links needs from outside, gives, and whether it opens; refuses a wrong order.

    After a link that opens any key may be there, so the check waits until it has run.
    """
    needs: set[str] = set()
    gives: set[str] = set()
    opens = False
    for place, each in enumerate(row):
        _check_link(each, place)
        wanted: frozenset[str] = frozenset() if opens else getattr(each, "needs", frozenset())
        missing = wanted - gives
        for key in sorted(missing):
            _check_order(each, key, row[place + 1 :])
        needs |= missing
        gives |= getattr(each, "gives", frozenset())
        opens |= getattr(each, "opens", True)
    return frozenset(needs), frozenset(gives), opens


def _check_link(each: Any, place: int) -> None:
    if isinstance(each, LinkFactory):
        raise ChainError(f"{each.name} is a factory: write {each.name}(), with its settings")
    if not callable(each):
        raise ChainError(f"place {place + 1} of the chain holds {each!r}, which is no link")


def _check_order(each: Any, key: str, rest: Sequence[Any]) -> None:
    for later, other in enumerate(rest, 1):
        # A link that needs the key itself hands it on: prune gives a checkpoint, but is no source.
        if key in getattr(other, "gives", frozenset()) - getattr(other, "needs", frozenset()):
            count = _NUMBERS[later] if later < len(_NUMBERS) else str(later)
            places = "place" if later == 1 else "places"
            raise ChainError(
                f"{_name(each)} needs '{key}'; {_name(other)}(), {count} {places} later, "
                f"provides it: put it earlier"
            )


async def run(
    chain: Any, ctx: Mapping[str, Any] | None = None, *, store: Store | None = None
) -> dict[str, Any]:
    """Run a chain (or one link) from a context, by default an empty one; see `Chain.run`."""
    whole = chain if isinstance(chain, Chain) else Chain(chain)
    return await whole.run({} if ctx is None else ctx, store=store)
