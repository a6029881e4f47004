"""Look before leaping: a chain walked in outline, its cost foretold, and refused if it cannot fit.

Nothing is loaded but one block: each link is asked whether it could work on the outline the links
before it leave, what it would add, and how much work that is; one block timed on the longest window
turns work into seconds.

What is certain refuses: settings that cannot work, memory or disk far from enough. What rests on a
guess, and a fault in the looking itself, are told and refuse nothing.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from ...checkpoints import Checkpoint
from ...checkpoints.allocator import release_unused_memory
from ...contexts.forecast import Expected, Forecast, Preflight, Speed
from ...contexts.free_memory import free_bytes
from ...engine import Chain, Link, spelled_settings
from ...errors import BirdboneError, LinkError, ResourceError
from ...links.wave.context_bytes import context_bytes
from ...models.planning.timing import BUSY, time_block
from ...models.writing.publishing import check_disk
from ...texts import Windows
from .fitting import milder, single_links

_BYTES_PER_SECOND = 5e8  # of a disk, or of hashing
_SLOWEST_START = 30.0  # an application that embeds a run was not started for it
_WINDOW = 512  # timed where no link says how long windows are
_OFF_BY = 1.25  # estimates of memory may be off by a quarter, so that what is near may yet fit


@dataclass(frozen=True)
class _Seen:
    """One link and what it says of itself.

    Attributes:
        peak_bytes: it would need beyond what this process held before the run.
        guessed: whether that rests on sizes a link before it could only guess.
    """

    link: Link[Any]
    forecast: Forecast
    peak_bytes: int
    guessed: bool

    @property
    def whole_bytes(self) -> int:
        """Fresh processes included."""
        return self.peak_bytes + self.forecast.process_bytes


@dataclass(frozen=True)
class _Walk:
    """A chain as far as it could be seen, and the outline it ends with."""

    seen: tuple[_Seen, ...]
    outline: Mapping[str, Any]
    blind_from: str | None
    cautions: tuple[str, ...]

    @property
    def sure_bytes(self) -> int:
        """Of what rests on no guess, what needs most."""
        return max((each.whole_bytes for each in self.seen if not each.guessed), default=0)

    @property
    def peak_bytes(self) -> int:
        """What needs most."""
        return max((each.whole_bytes for each in self.seen), default=0)


def preflight(chain: Chain, ctx: Mapping[str, Any] | None = None) -> Preflight:
    """Foretell what a run of the chain costs, from a context that may be empty.

    Raises:
        ChainError: the context lacks what the chain needs.
        LinkError: a link could not work on what it would get, as it says itself.
        ResourceError: the run cannot fit, with the setting that would make it fit where one is
            known.
    """
    chain.check_given(dict(ctx or {}))
    start, started = time.perf_counter(), time.time() - psutil.Process().create_time()
    walk = _walk(chain, dict(ctx or {}))
    base, free = _resident_bytes(), free_bytes()  # now, when what links import is in
    cautions = [*walk.cautions, *_memory(chain, walk, dict(ctx or {}), base, free)]
    speed = _speed(walk, min(started, _SLOWEST_START), cautions)
    base, free = _resident_bytes(), free_bytes()  # again, for computing brought in more
    links = tuple(_expected(each, base, speed) for each in walk.seen)
    cautions += _disk(links)
    gc.collect()
    release_unused_memory()
    seconds = time.perf_counter() - start
    texts = tuple(text for each in walk.seen for text in each.forecast.texts)
    return Preflight(links, speed, base + free, seconds, walk.blind_from, tuple(cautions), texts)


def _walk(chain: Chain, ctx: Mapping[str, Any]) -> _Walk:
    """Every link in turn on the outline of what came before; ends at one that cannot be asked."""
    seen: list[_Seen] = []
    guessed = False
    for each in single_links(chain):
        if not isinstance(each, Link) or each.factory.hooks.forecast is None:
            name = str(getattr(each, "__name__", type(each).__name__))
            return _Walk(tuple(seen), ctx, name, ())
        try:
            seen.append(_look(each, ctx, guessed))
        except Exception as error:  # a forecast, of anybody's link, must not break what would run
            if isinstance(error, BirdboneError) and not guessed:
                raise LinkError(each.__name__, spelled_settings(each), error) from error
            return _Walk(tuple(seen), ctx, each.__name__, (_stumbled(each, error, guessed),))
        guessed |= seen[-1].forecast.guessed
        ctx = {**ctx, **seen[-1].forecast.adds}
    return _Walk(tuple(seen), ctx, None, ())


def _stumbled(each: Link[Any], error: Exception, guessed: bool) -> str:
    if isinstance(error, BirdboneError):
        return f"link '{each.__name__}' would not work on the sizes expected there: {error}"
    where = " on the sizes expected there" if guessed else ""
    return f"the cost of link '{each.__name__}' cannot be foretold{where}: {error!r}"


def _look(each: Link[Any], ctx: Mapping[str, Any], guessed: bool) -> _Seen:
    hooks = each.factory.hooks
    if hooks.check is not None:
        hooks.check(ctx, each.settings)
    forecast = Forecast() if hooks.forecast is None else hooks.forecast(ctx, each.settings)
    need = max(forecast.memory_bytes, forecast.host_bytes)
    peak = max(context_bytes(ctx) + need, context_bytes(ctx, forecast.adds))
    return _Seen(each, forecast, peak, guessed or forecast.guessed)


def _memory(
    chain: Chain, walk: _Walk, ctx: Mapping[str, Any], base: int, free: int
) -> Iterator[str]:
    """Refuses what surely does not fit beside ``base``; says what may not."""
    if walk.peak_bytes <= free:
        return
    worst = max(walk.seen, key=lambda each: each.whole_bytes)
    mend = _mend(chain, ctx, free)
    message = (
        f"link '{worst.link.__name__}' is expected to need {(base + worst.whole_bytes) / 1e9:.2f} "
        f"GB of memory, {(base + free) / 1e9:.2f} GB can be had; "
        + (f"with {mend} it would fit" if mend else "no setting known here makes it fit")
    )
    # On a GPU a part of what is counted lies in the machine's memory: told, but never refused.
    refuses = not torch.cuda.is_available()
    if refuses and base + walk.sure_bytes > _OFF_BY * (base + free):
        raise ResourceError(message)
    yield f"memory may not be enough: {message}"


def _mend(chain: Chain, ctx: Mapping[str, Any], free: int) -> str | None:
    """The mildest change of settings under which every link fits, as ``--set`` spells it."""
    for changes, changed in milder(chain):
        if _fits(changed, ctx, free):
            return " and ".join(f"{name}={value}" for name, value in changes.items())
    return None


def _fits(chain: Chain, ctx: Mapping[str, Any], free: int) -> bool:
    try:
        return _walk(chain, ctx).peak_bytes <= free
    except LinkError:
        return False


def _disk(links: tuple[Expected, ...]) -> Iterator[str]:
    """Refuses what the disk surely does not hold; says what it may not."""
    for each in links:
        if each.writes is None:
            continue
        try:
            check_disk(each.writes, each.disk_bytes + each.passing_disk_bytes)
        except ResourceError as error:
            if not each.guessed:
                raise
            yield str(error)


def _speed(walk: _Walk, started: float, cautions: list[str]) -> Speed | None:
    """The machine's, on one block of the model as it comes; unknown without a model."""
    windows = [value.length for value in walk.outline.values() if isinstance(value, Windows)]
    length = max(windows, default=_WINDOW)
    dense = walk.outline.get("dense")
    if not isinstance(dense, Checkpoint):
        return None
    try:
        found = time_block(dense, length)
    except Exception as error:  # noqa: BLE001 - as in _walk
        cautions.append(f"times are not known, for no block could be timed: {error!r}")
        return None
    if found.taken >= BUSY:
        cautions.append(
            f"other programs kept {found.taken:.1f} of {psutil.cpu_count()} cores busy while a "
            f"block was timed: times are told as if this run had its {torch.get_num_threads()} "
            f"threads to itself, and are longer while it has not"
        )
    return Speed(
        block=found.block,
        head=found.head,
        gram=found.gram,
        solve=found.solve,
        product=found.product,
        token=found.token,
        start=started,
        byte=1 / _BYTES_PER_SECOND,
        window=length,
    )


def _expected(seen: _Seen, base: int, speed: Speed | None) -> Expected:
    forecast, settings = seen.forecast, spelled_settings(seen.link)
    path = settings.get("path") if forecast.disk_bytes else None
    return Expected(
        link=seen.link.__name__,
        settings=settings,
        seconds=None if speed is None else speed.seconds(forecast),
        peak_bytes=base + seen.peak_bytes,
        process_bytes=forecast.process_bytes,
        disk_bytes=forecast.disk_bytes,
        passing_disk_bytes=forecast.passing_disk_bytes,
        writes=None if path is None else str(Path(path).expanduser()),
        guessed=seen.guessed,
        notes=forecast.notes,
    )


def _resident_bytes() -> int:
    """What this process holds before the run, which every link's peak rests on."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    release_unused_memory()
    return psutil.Process().memory_info().rss
