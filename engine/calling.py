"""Running one link: refused early, replayed from the store, or run and its outcome kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import modulink
from modulink import Context

from ..contexts.cost import Meter
from ..contexts.placement import placed_by
from ..contexts.ranks import (
    alone,
    exchanged,
    first_tells,
    from_first,
    is_first,
    require_same,
    sendable,
    size,
)
from ..contexts.steps import Step
from ..errors import ChainError, LinkError
from .halving import run_halving
from .keeping import Outcome, Place, current_place, current_store
from .naming import chains_of, name_of, provided_by, spelled_settings
from .watching import in_thread, observers

if TYPE_CHECKING:
    from .bound import Link


async def call(step: Link[Any], ctx: Mapping[str, Any]) -> dict[str, Any]:
    """Run a link's function, or replay it from the store; return a new context with its keys."""
    for key in sorted(step.needs - ctx.keys()):
        raise ChainError(
            f"{step.__name__} needs '{key}', which the context lacks{provided_by(key)}"
        )
    with placed_by(ctx):
        return await _called(step, ctx)


async def _called(step: Link[Any], ctx: Mapping[str, Any]) -> dict[str, Any]:
    check_links([step], ctx)
    store = current_store.get()
    place = None if store is None else await in_thread(store.place, step, ctx)
    outcome = None if place is None else await in_thread(place.replay)
    if outcome is None:
        outcome = await _outcome_on_ranks(step, ctx, place)
    else:
        for observer in observers.get():
            await observer.notify("replayed", step, ctx, outcome.steps[-1])
    history = (*ctx.get("history", ()), *outcome.steps)
    return like(ctx, {**ctx, **outcome.added, "history": history})


async def _outcome_on_ranks(
    step: Link[Any], ctx: Mapping[str, Any], place: Place | None
) -> Outcome:
    """Run a link on every rank or on the first; with a place, its outcome is kept."""
    if size() == 1 or runs_on_every_rank(step):
        outcome = await _outcome(step, ctx, place)
        found = {"the model": outcome.steps[-1].checkpoint}
        if size() > 1:
            await in_thread(require_same, found, of=f" after {step.__name__}")
        return outcome if place is None else await in_thread(place.publish, outcome)
    made = await _outcome_of_first(step, ctx, place)
    if place is not None:
        made = await in_thread(place.publish, cast("Outcome", made))
    return await in_thread(_handed_over, step, made)


def runs_on_every_rank(step: Any) -> bool:
    """Whether all ranks run a step: plain functions, chains, and links that say so."""
    factory = getattr(step, "factory", None)
    if factory is None:
        return True
    hook = factory.hooks.on_every_rank
    return hook is not None and bool(hook(step.settings))


async def _outcome_of_first(
    step: Link[Any], ctx: Mapping[str, Any], place: Place | None
) -> Outcome | None:
    """The outcome on rank 0, while the others wait; its error is raised on every rank."""
    outcome, failed = None, None
    if is_first():
        try:
            with alone():
                outcome = await _outcome(step, ctx, place)
        except Exception as error:  # noqa: BLE001 - raised below, on every rank
            failed = error
    failed = await in_thread(first_tells, lambda: failed, sendable)
    if failed is not None:
        raise failed
    return outcome


def _handed_over(step: Link[Any], outcome: Outcome | None) -> Outcome:
    """The outcome of rank 0 on every rank, sent to those that did not find it in the run folder."""
    if not any(exchanged(outcome is None)):
        assert outcome is not None
        return outcome
    if is_first() and sendable(outcome) is not outcome:
        raise ChainError(
            f"{step.__name__} runs on rank 0 alone, and its result cannot be sent to the others; "
            f"run with a run folder that stores it"
        )
    found = from_first(lambda: outcome)
    assert found is not None  # rank 0 has one
    return found


async def _outcome(step: Link[Any], ctx: Mapping[str, Any], place: Place | None) -> Outcome:
    """Run a link's function on a copy of the context."""
    meter, token = Meter(), current_place.set(place)
    try:
        result, used = await run_halving(step, ctx)
    finally:
        current_place.reset(token)
    added = dict(as_context(step, result))
    metrics = {**added.pop("metrics", {}), **used}
    for key in sorted(step.adds - added.keys()):
        raise ChainError(f"{step.__name__} declares that it adds '{key}' but did not return it")
    checkpoint = added.get("checkpoint", ctx.get("checkpoint"))
    # An id is the hash of every tensor: work for a thread, and part of the link's cost.
    identity = None if checkpoint is None else await in_thread(_identity, checkpoint)
    cost, settings = meter.stop(), spelled_settings(step)
    inner = added.pop("history", ())[len(ctx.get("history", ())) :]
    record = Step(step.__name__, settings, cost, metrics, identity)
    return Outcome(added, (*inner, record))


def _identity(checkpoint: Any) -> str | None:
    return getattr(checkpoint, "id", None)


def check_links(links: Iterable[Any], ctx: Mapping[str, Any]) -> None:
    """Call the ``check`` hooks of links, of nested chains and of chains among settings too.

    Raises:
        LinkError: a link cannot work on what the context holds so far.
    """
    for each in links:
        for inner in [each] if isinstance(each, modulink.Chain) else chains_of(each).values():
            check_links(getattr(inner, "links", ()), ctx)
        hooks = getattr(getattr(each, "factory", None), "hooks", None)
        if hooks is not None and hooks.check is not None:
            try:
                with placed_by(ctx):
                    hooks.check(ctx, each.settings)
            except Exception as error:
                raise LinkError(name_of(each), spelled_settings(each), error) from error


def as_context(each: Any, result: Any) -> Mapping[str, Any]:
    """What a link returned, if it is a context.

    Raises:
        ChainError: it is something else.
    """
    if not isinstance(result, Mapping):
        kind = type(result).__name__
        raise ChainError(f"link '{name_of(each)}' returned {kind}; a link returns a context dict")
    return result


def like(ctx: Mapping[str, Any], items: Mapping[str, Any]) -> dict[str, Any]:
    """A new context of the caller's type: a modulink Context stays one, a dict stays a dict."""
    return type(ctx)(items) if isinstance(ctx, Context) else dict(items)
