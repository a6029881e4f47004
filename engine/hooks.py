"""The optional functions of a link besides its body, each registered by a decorator.

| decorator | signature | when it is called |
|---|---|---|
| ``check`` | ``(ctx, settings) -> None`` | at the start of a run, and again after each new key |
| ``forecast`` | ``(ctx, settings) -> Forecast`` | before a run; before the link under GpuMemory |
| ``trial`` | ``(ctx, settings) -> None`` | once before a run, on the outline that is forecast |
| ``reads`` | ``(settings) -> Any`` | when a run folder looks for a stored result |
| ``intact`` | ``(ctx, added) -> bool`` | before a stored result is reused |
| ``follows`` | ``(settings, earlier) -> None`` | when a chain is composed |
| ``on_every_rank`` | ``(settings) -> bool`` | before the link runs on several ranks |

All receive the settings as the link's body does: one frozen, typed value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..contexts.forecast import Forecast
from .settings import S

C = TypeVar("C")


@dataclass
class Hooks(Generic[C, S]):
    """What a link registered; None for a hook it does not have.

    Attributes:
        check: raises if the link cannot work, judged by the keys the context has so far.
        forecast: what the link would add, its memory, disk and time.
        trial: raises if the link would fail on the outline of its context, which holds shapes and
            no values.
        reads: plain values that change when something outside the context that the link reads
            does, such as the files of a model; None if that cannot be determined.
        intact: whether what the link left outside the context, such as a folder, is unchanged.
        follows: raises `ChainError` if the link cannot come after the earlier ones.
        on_every_rank: whether all ranks run the link, which divides its work; without the hook rank
            0 runs it and hands its result to the others.
    """

    check: Callable[[Any, S], None] | None = None
    forecast: Callable[[C, S], Forecast] | None = None
    trial: Callable[[C, S], None] | None = None
    reads: Callable[[S], Any] | None = None
    intact: Callable[[Any, Mapping[str, Any]], bool] | None = None
    follows: Callable[[S, Sequence[Any]], None] | None = None
    on_every_rank: Callable[[S], bool] | None = None
