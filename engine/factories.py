"""The `link` decorator: an async function becomes a factory of links with checked settings."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    cast,
    get_type_hints,
    is_typeddict,
    overload,
)

from ..contexts.forecast import Forecast
from ..errors import ChainError, SettingError
from .bound import Link
from .context_keys import all_keys, required_keys
from .hooks import C, Hooks
from .naming import providers
from .settings import S, Settings, documented, from_parameters, signature_of, validated

P = ParamSpec("P")

SettingsCheck = Callable[[Any, S], None]
Foretell = Callable[[C, S], Forecast]
Trial = Callable[[C, S], None]
Reads = Callable[[S], Any]
Intact = Callable[[Any, Mapping[str, Any]], bool]
Follows = Callable[[S, Sequence[Any]], None]
OnEveryRank = Callable[[S], bool]


class LinkFactory(Generic[P, S, C]):
    """A compression step; calling it with settings validates them and returns a `Link`.

    The type parameters are the keyword arguments, the settings type and the context type.

    Attributes:
        name: the step's name, as recipes and ``--set`` spell it.
        settings_type: the type of its settings.
        needs: context keys it requires, read off the TypedDict of its context.
        adds: context keys it adds, read off the TypedDict it returns.
        may_read: ``needs`` and the optional keys; None if no TypedDict declares it.
        open_ended: no TypedDict declares what it adds, so any key may be in the context after it.
        hooks: what was registered with the decorators below.
    """

    def __init__(self, function: Callable[..., Any], settings: type[S] | None) -> None:
        hints = get_type_hints(function, include_extras=True)
        first, *rest = inspect.signature(function).parameters.values()
        self.function = function
        self.name = self.__name__ = function.__name__
        self.needs = required_keys(hints.get(first.name))
        self.adds = required_keys(hints.get("return")) - {"metrics"}
        self.may_read = all_keys(hints.get(first.name))
        self.open_ended = not is_typeddict(hints.get("return"))
        self.settings_type: type[S] = settings or cast(
            "type[S]", from_parameters(self.name, rest, hints)
        )
        self.__doc__ = documented(function.__doc__, self.settings_type)
        self.__signature__ = signature_of(self.settings_type, Link)
        self.hooks: Hooks[C, S] = Hooks()
        self._typed = settings is not None
        if self._typed and len(rest) != 1:
            raise ChainError(
                f"link {self.name} takes {self.settings_type.__name__}, so write "
                f"'async def {self.name}(ctx, settings)'"
            )
        for key in self.adds - self.needs:
            providers.setdefault(key, []).append(self.name)

    def check(self, hook: SettingsCheck[S]) -> SettingsCheck[S]:
        """Decorator: refuse early what cannot work.

        ``hook(ctx, settings)`` raises if what the context holds so far shows that the link will
        fail; any key may be missing. A chain calls it at its start and after every link that added
        keys, so that settings which do not fit the model or the text cost seconds instead of hours.
        It must be cheap.
        """
        self.hooks.check = hook
        return hook

    def forecast(self, hook: Foretell[C, S]) -> Foretell[C, S]:
        """Decorator: estimate what the link adds, and its memory, disk and time.

        ``hook(ctx, settings)`` is called before a run on an outline of the context: checkpoints
        have names, shapes and dtypes but no values. `Forecast.adds` holds the outlines of the keys
        the link adds, as far as later links look at them; a link that cannot know their sizes sets
        ``guessed``, and nothing after it refuses the run. A `BirdboneError` refuses the run, any
        other error is reported and ends the forecast there. Nothing is known of a link without this
        hook and of those after it. `GpuMemory` compares ``memory_bytes`` with the free memory
        before the link runs::

            @upload.forecast
            def _forecast(ctx: Loaded, settings: UploadSettings) -> Forecast:
                return Forecast(moved_bytes=ctx["checkpoint"].num_bytes, notes=("one copy",))
        """
        self.hooks.forecast = hook
        return hook

    def trial(self, hook: Trial[C, S]) -> Trial[C, S]:
        """Decorator: try before a run what would otherwise fail at its end.

        ``hook(ctx, settings)`` is called once before a run, on the same outline as ``forecast``,
        and raises if the link would fail on it. It may take a second, where ``check`` may not.
        """
        self.hooks.trial = hook
        return hook

    def reads(self, hook: Reads[S]) -> Reads[S]:
        """Decorator: name what the link reads outside its context, such as the files of a model.

        ``hook(settings)`` returns plain values that change when that changes; None if it cannot be
        determined, and then a run folder never reuses a result of the link.
        """
        self.hooks.reads = hook
        return hook

    def intact(self, hook: Intact) -> Intact:
        """Decorator: check that what the link left outside the context, as a folder, is unchanged.

        ``hook(ctx, added)`` is called before a run folder reuses a result; if it returns False the
        link runs again.
        """
        self.hooks.intact = hook
        return hook

    def follows(self, hook: Follows[S]) -> Follows[S]:
        """Decorator: refuse an order of links, whatever the model and the text.

        ``hook(settings, earlier)`` raises `ChainError` when a chain is composed; ``earlier`` are
        the links and functions before this one in running order, as `every_link` returns them.
        """
        self.hooks.follows = hook
        return hook

    def on_every_rank(self, hook: OnEveryRank[S]) -> OnEveryRank[S]:
        """Decorator: run on every rank where torchrun started several, and divide the work there.

        ``hook(settings)`` returns whether it does. Without it rank 0 runs the link while the others
        wait, and hands its result to them.
        """
        self.hooks.on_every_rank = hook
        return hook

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Link[S]:
        if args:
            found = reprlib.repr(args[0])
            raise SettingError(f"{self.name} takes settings by name only, found {found}")
        return self.bind(kwargs)

    def bind(self, settings: Mapping[str, Any]) -> Link[S]:
        """A link with settings whose names come from a user, such as those of a recipe.

        Raises:
            SettingError: an unknown name, a wrong type, or a value out of range.
        """
        return Link(self, validated(self.name, self.settings_type, settings))

    async def run(self, ctx: dict[str, Any], settings: Settings) -> Any:
        """Call the function, with the settings as it takes them: one value, or by keyword."""
        if self._typed:
            return await self.function(ctx, settings)
        return await self.function(ctx, **dict(settings))

    def __repr__(self) -> str:
        return f"{self.name}{self.__signature__}"


@overload
def link(
    function: Callable[Concatenate[C, P], Coroutine[Any, Any, Mapping[str, Any]]], /
) -> LinkFactory[P, Any, C]: ...


@overload
def link(
    settings: Callable[P, S], /
) -> Callable[[Callable[[C, S], Coroutine[Any, Any, Mapping[str, Any]]]], LinkFactory[P, S, C]]: ...


def link(given: Any, /) -> Any:
    """Decorator: make an async function a link factory, to be called with settings.

    The function's context is annotated with the TypedDict of the keys it needs, its return with the
    TypedDict of the keys it adds; it returns only those, and its context is a copy. A returned key
    ``metrics`` is recorded in the history instead of the context. Settings are keyword-only
    parameters, or one `Settings` value, which the link's hooks receive too::

        @link
        async def shrink(ctx: Loaded, *, factor: float = 0.5) -> Changed: ...

        @link(PruneSettings)
        async def prune(ctx: Scored, settings: PruneSettings) -> Pruned: ...

    Raises:
        ChainError: the function is not async, or its settings are not keyword-only and typed.
    """
    if isinstance(given, type) and issubclass(given, Settings):
        return lambda function: LinkFactory(_coroutine_function(function), given)
    return LinkFactory(_coroutine_function(given), None)


def _coroutine_function(function: Any) -> Any:
    if not inspect.iscoroutinefunction(function):
        name = getattr(function, "__name__", repr(function))
        raise ChainError(f"@link needs an async function; write 'async def {name}'")
    return function
