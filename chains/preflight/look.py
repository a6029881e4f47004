"""The estimate of a run before it starts: memory, disk and time, and refusal of what cannot fit.

Only one block is loaded. Each link is checked on the outline that the links before it leave, and
returns its `Forecast`; one block, timed on the longest window, turns its work into seconds.

Certain failures refuse the run: settings that cannot work, or far too little memory or disk. What
depends on guessed sizes, and errors of a forecast itself, are reported and refuse nothing.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from ...checkpoints import Checkpoint
from ...checkpoints.allocator import release_unused_memory
from ...contexts.forecast import Expected, Forecast, Preflight, Speed
from ...contexts.free_memory import free_bytes, free_host_bytes
from ...contexts.placement import counted_device, held_on_device, placed_by
from ...engine import Chain, Link, spelled_settings
from ...errors import BirdboneError, LinkError, ResourceError
from ...links.wave.context_bytes import context_bytes
from ...models.blocks.empty_model import find_blocks, shared_model
from ...models.planning.timing import BUSY, time_block
from ...models.writing.publishing import check_disk
from ...texts import Windows
from .fitting import milder, single_links

_BYTES_PER_SECOND = 5e8  # of a disk, or of hashing
_SLOWEST_START = 30.0  # an application that embeds a run did not start for it
_WINDOW = 512  # timed if no link determines the length of windows
_BLOCK_BYTES = 12  # of a parameter while its block is timed: as stored, in float32, and a Gram
_UNLIKE = 1.5  # the largest block over the first one, from which on times are said to be off
_OFF_BY = 1.25  # estimates of memory may be off by a quarter


@dataclass(frozen=True)
class _Seen:
    """One link and its forecast.

    Attributes:
        peak_bytes: peak memory beyond what this process held before the run, where it computes.
        host_bytes: peak of the machine's memory beyond that, if it computes on an accelerator.
        guessed: whether that depends on sizes that an earlier link could only guess.
    """

    link: Link[Any]
    forecast: Forecast
    peak_bytes: int
    host_bytes: int
    guessed: bool

    @property
    def whole_bytes(self) -> int:
        """Peak memory, fresh processes included."""
        return self.peak_bytes + self.forecast.process_bytes


@dataclass(frozen=True)
class _Walk:
    """The forecasts of a chain as far as they are known, and the outline after the last."""

    seen: tuple[_Seen, ...]
    outline: Mapping[str, Any]
    blind_from: str | None
    cautions: tuple[str, ...]

    @property
    def sure_bytes(self) -> int:
        """The highest peak of links that depend on no guess."""
        return max((each.whole_bytes for each in self.seen if not each.guessed), default=0)

    @property
    def peak_bytes(self) -> int:
        """The highest peak."""
        return max((each.whole_bytes for each in self.seen), default=0)


def preflight(
    chain: Chain, ctx: Mapping[str, Any] | None = None, *, device_bytes: int | None = None
) -> Preflight:
    """Estimate the cost of running the chain from a context, which may be empty.

    Args:
        device_bytes: estimate for an accelerator with this much memory instead of this machine.

    Raises:
        ChainError: the context lacks a key the chain needs.
        LinkError: a link refuses its settings or its input.
        ResourceError: the run does not fit, with a setting that makes it fit if one is known.
    """
    chain.check_given(dict(ctx or {}))
    start, started = time.perf_counter(), time.time() - psutil.Process().create_time()
    planned = device_bytes is not None
    walk = _walk(chain, dict(ctx or {}), tries=True, planned=planned)
    with placed_by(walk.outline):
        # Now that the imports of links are loaded.
        base = 0 if planned else _resident_bytes()
        free = free_bytes() if device_bytes is None else device_bytes
        cautions = [*walk.cautions, *_memory(chain, walk, dict(ctx or {}), base, free, planned)]
        speed = _speed(walk, min(started, _SLOWEST_START), cautions)
        if not planned:
            base, free = _resident_bytes(), free_bytes()  # again, since computing loaded more
    links = tuple(_expected(each, base, speed) for each in walk.seen)
    cautions += _disk(links)
    gc.collect()
    release_unused_memory()
    seconds = time.perf_counter() - start
    texts = tuple(text for each in walk.seen for text in each.forecast.texts)
    dense = walk.outline.get("dense")
    return Preflight(
        links,
        speed,
        base + free,
        seconds,
        walk.blind_from,
        tuple(cautions),
        texts,
        model_bytes=dense.num_bytes if isinstance(dense, Checkpoint) else 0,
    )


def check_ahead(chain: Chain) -> None:
    """Refuse what `preflight` would, without timing anything; memory is not judged.

    Raises:
        LinkError: a link refuses its settings, its input or what it would save.
        ResourceError: the disk is too small.
    """
    walk = _walk(chain, {}, tries=True)
    for caution in _disk(tuple(_expected(each, 0, None) for each in walk.seen)):
        warnings.warn(caution, stacklevel=2)


def _walk(
    chain: Chain, ctx: Mapping[str, Any], *, tries: bool = False, planned: bool = False
) -> _Walk:
    """Every link on the outline that the one before leaves, up to one without a forecast.

    Args:
        tries: also call the trials of links, which take longer.
        planned: estimate for an accelerator, whether this machine has one or not.
    """
    seen: list[_Seen] = []
    guessed = False
    for each in single_links(chain):
        if not isinstance(each, Link) or each.factory.hooks.forecast is None:
            name = str(getattr(each, "__name__", type(each).__name__))
            return _Walk(tuple(seen), ctx, name, ())
        try:
            seen.append(_look(each, ctx, guessed, planned))
            if tries and each.factory.hooks.trial is not None:
                each.factory.hooks.trial(ctx, each.settings)
        except Exception as error:  # a faulty forecast of a custom link must not stop a run
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


def _look(each: Link[Any], ctx: Mapping[str, Any], guessed: bool, planned: bool) -> _Seen:
    hooks = each.factory.hooks
    with placed_by(ctx):
        if hooks.check is not None:
            hooks.check(ctx, each.settings)
        forecast = Forecast() if hooks.forecast is None else hooks.forecast(ctx, each.settings)
        on_device = planned or counted_device() is not None
    guessed |= forecast.guessed
    held, left = context_bytes(ctx), context_bytes(ctx, forecast.adds)
    if on_device:  # the context is in the machine's memory
        host = max(held + forecast.host_bytes, left)
        return _Seen(each, forecast, forecast.memory_bytes, host, guessed)
    peak = max(held + max(forecast.memory_bytes, forecast.host_bytes), left)
    return _Seen(each, forecast, peak, 0, guessed)


def _memory(
    chain: Chain, walk: _Walk, ctx: Mapping[str, Any], base: int, free: int, planned: bool
) -> Iterator[str]:
    """Refuse what certainly does not fit; warn of what may not."""
    if walk.peak_bytes <= free:
        return
    worst = max(walk.seen, key=lambda each: each.whole_bytes)
    device = "the device" if planned else counted_device()
    change = _milder_settings(chain, ctx, free, planned)
    message = (
        f"link '{worst.link.__name__}' is expected to need {(base + worst.whole_bytes) / 1e9:.2f} "
        f"GB of memory{'' if device is None else f' on {device}'}, {(base + free) / 1e9:.2f} GB "
        f"can be had; "
        + (f"with {change} it would fit" if change else "no setting known here makes it fit")
    )
    if base + walk.sure_bytes > _OFF_BY * (base + free):
        raise ResourceError(message)
    yield f"memory may not be enough: {message}"


def _milder_settings(chain: Chain, ctx: Mapping[str, Any], free: int, planned: bool) -> str | None:
    """The mildest change of settings with which every link fits, as ``--set`` spells it."""
    for changes, changed in milder(chain):
        if _fits(changed, ctx, free, planned):
            return " and ".join(f"{name}={value}" for name, value in changes.items())
    return None


def _fits(chain: Chain, ctx: Mapping[str, Any], free: int, planned: bool) -> bool:
    try:
        return _walk(chain, ctx, planned=planned).peak_bytes <= free
    except LinkError:
        return False


def _disk(links: tuple[Expected, ...]) -> Iterator[str]:
    """Refuse what the disk certainly cannot hold; warn of what it may not."""
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
    """The speed of this machine on one block of the input model; unknown without a model."""
    windows = [value.length for value in walk.outline.values() if isinstance(value, Windows)]
    length = max(windows, default=_WINDOW)
    dense = walk.outline.get("dense")
    if not isinstance(dense, Checkpoint):
        return None
    first, largest = _block_values(dense)
    if _BLOCK_BYTES * first > free_host_bytes():
        cautions.append(
            f"times are not known: the block to time has {first:,} parameters and does not fit in "
            f"the memory of this machine"
        )
        return None
    if largest > _UNLIKE * first:
        cautions.append(
            f"times are based on the first block, and the largest has {largest / first:.0f} times "
            f"its parameters: blocks like that one take longer"
        )
    try:
        found = time_block(dense, length)
    except Exception as error:  # noqa: BLE001 - as in _walk
        cautions.append(f"times are not known, for no block could be timed: {error!r}")
        return None
    if found.taken >= BUSY:
        cautions.append(
            f"other programs kept {found.taken:.1f} of {psutil.cpu_count()} cores busy while a "
            f"block was timed: the times assume that this run has its {torch.get_num_threads()} "
            f"threads to itself, and it takes longer while it does not"
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


def _block_values(checkpoint: Checkpoint) -> tuple[int, int]:
    """Parameters of the first block and of the largest."""
    _, blocks = find_blocks(shared_model(checkpoint))
    sizes = [sum(each.numel() for each in block.parameters()) for block in blocks]
    return sizes[0], max(sizes)


def _expected(seen: _Seen, base: int, speed: Speed | None) -> Expected:
    forecast, settings = seen.forecast, spelled_settings(seen.link)
    path = settings.get("path") if forecast.disk_bytes else None
    return Expected(
        link=seen.link.__name__,
        settings=settings,
        seconds=None if speed is None else speed.seconds(forecast),
        peak_bytes=base + seen.peak_bytes,
        host_bytes=seen.host_bytes,
        process_bytes=forecast.process_bytes,
        disk_bytes=forecast.disk_bytes,
        passing_disk_bytes=forecast.passing_disk_bytes,
        writes=None if path is None else str(Path(path).expanduser()),
        guessed=seen.guessed,
        notes=forecast.notes,
    )


def _resident_bytes() -> int:
    """Memory that this process holds before the run where it computes, the base of every peak."""
    if counted_device() is not None:
        return held_on_device()
    release_unused_memory()
    return psutil.Process().memory_info().rss
