"""Look before leaping: a chain walked in outline, its cost foretold, and refused if it cannot fit.

Nothing is loaded but one block: each link is asked whether it could work on the outline the links
before it leave, what it would add, and how much work that is; one block timed on the longest window
turns work into seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from ..checkpoints import Checkpoint
from ..contexts.forecast import Expected, Forecast, Preflight, Speed
from ..contexts.verdict import Reference
from ..engine import Chain, Link
from ..errors import LinkError, ResourceError
from ..models.block_times import time_block
from ..models.outline import held_bytes
from ..models.publishing import check_disk
from ..texts import Windows
from .overrides import configure

_BYTES_PER_SECOND = 5e8  # of a disk, or of hashing
_SLOWEST_START = 30.0  # an application that embeds a run was not started for it
_WINDOW = 512  # timed where no link says how long windows are
_FEWEST_WINDOWS = 1


@dataclass(frozen=True)
class _Seen:
    """One link, what it says of itself, and the memory it would need at its peak."""

    link: Link
    forecast: Forecast
    peak_bytes: int


def preflight(chain: Chain, ctx: Mapping[str, Any] | None = None) -> Preflight:
    """Foretell what a run of the chain costs, from a context that may be empty.

    Raises:
        LinkError: a link could not work on what it would get, as it says itself.
        ResourceError: the run cannot fit, with the setting that would make it fit where one is
            known.
    """
    start = time.perf_counter()
    base = _resident_bytes()
    seen, outline, blind_from = _walk(chain, dict(ctx or {}), base)
    free = base + _free_bytes()
    speed = _speed(outline, seen)
    links = tuple(_expected(each, speed) for each in seen)
    found = Preflight(links, speed, free, time.perf_counter() - start, blind_from)
    if found.peak_bytes > free:
        raise ResourceError(_does_not_fit(chain, found, dict(ctx or {}), base))
    for each in links:
        if each.writes is not None:
            check_disk(each.writes, each.disk_bytes + each.passing_disk_bytes)
    return found


def _walk(
    chain: Chain, ctx: dict[str, Any], base: int
) -> tuple[list[_Seen], dict[str, Any], str | None]:
    """Every link in turn on the outline of what came before; ends at one that says nothing."""
    seen: list[_Seen] = []
    for each in _flat(chain):
        if getattr(getattr(each, "factory", None), "foretell", None) is None:
            return seen, ctx, str(getattr(each, "__name__", type(each).__name__))
        try:
            seen.append(_look(each, ctx, base))
        except Exception as error:
            raise LinkError(each.__name__, each.settings, error) from error
        base += seen[-1].forecast.kept_bytes
        ctx = {**ctx, **seen[-1].forecast.adds}
    return seen, ctx, None


def _look(each: Any, ctx: Mapping[str, Any], base: int) -> _Seen:
    factory = each.factory
    if factory.check is not None:
        factory.check(ctx, each.settings)
    forecast: Forecast = factory.foretell(ctx, each.settings)
    need = 0 if factory.need_bytes is None else factory.need_bytes(ctx, each.settings)
    after = _context_bytes({**ctx, **forecast.adds})
    peak = base + max(_context_bytes(ctx) + need, after + forecast.kept_bytes)
    return _Seen(each, forecast, peak)


def _flat(chain: Chain) -> Iterator[Any]:
    for each in chain.links:
        if isinstance(each, Chain):
            yield from _flat(each)
        else:
            yield each


def _context_bytes(ctx: Mapping[str, Any]) -> int:
    """Bytes in memory of what a context holds: models, hidden states."""
    models = held_bytes(*(value for value in ctx.values() if isinstance(value, Checkpoint)))
    kept = [value.hidden for value in ctx.values() if isinstance(value, Reference)]
    return models + sum(hidden.numel() * hidden.itemsize for hidden in kept)


def _speed(outline: Mapping[str, Any], seen: list[_Seen]) -> Speed:
    """The machine's, on one block of the model as it comes; unknown without a model."""
    windows = [value.length for value in outline.values() if isinstance(value, Windows)]
    length = max(windows, default=_WINDOW)
    started = min(time.time() - psutil.Process().create_time(), _SLOWEST_START)
    dense = outline.get("dense")
    if not isinstance(dense, Checkpoint):
        return Speed(0.0, 0.0, 0.0, 0.0, 0.0, started, 1 / _BYTES_PER_SECOND, length)
    found = time_block(dense, length)
    return Speed(
        block=found.block,
        head=found.head,
        gram=found.gram,
        solve=found.solve,
        token=found.token,
        start=started,
        byte=1 / _BYTES_PER_SECOND,
        window=length,
    )


def _expected(seen: _Seen, speed: Speed) -> Expected:
    forecast, settings = seen.forecast, seen.link.settings
    return Expected(
        link=seen.link.__name__,
        settings=settings,
        seconds=speed.seconds(forecast),
        peak_bytes=seen.peak_bytes,
        process_bytes=forecast.process_bytes,
        disk_bytes=forecast.disk_bytes,
        passing_disk_bytes=forecast.passing_disk_bytes,
        writes=str(Path(settings["path"]).expanduser()) if forecast.disk_bytes else None,
    )


def _resident_bytes() -> int:
    """What this process holds before the run, which every link's peak rests on."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return psutil.Process().memory_info().rss


def _free_bytes() -> int:
    """Memory a run can still get where it computes."""
    if not torch.cuda.is_available():
        return psutil.virtual_memory().available
    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def _does_not_fit(chain: Chain, found: Preflight, ctx: dict[str, Any], base: int) -> str:
    worst = max(found.links, key=lambda each: each.peak_bytes + each.process_bytes)
    mend = _fitting_setting(chain, ctx, base, found.free_bytes)
    return (
        f"link '{worst.link}' is expected to need {found.peak_bytes / 1e9:.2f} GB of memory, "
        f"{found.free_bytes / 1e9:.2f} GB can be had; "
        + (f"with {mend} it would fit" if mend else "no setting known here makes it fit")
    )


def _fitting_setting(chain: Chain, ctx: dict[str, Any], base: int, free: int) -> str | None:
    """The mildest change of settings under which every link fits, as ``--set`` spells it."""
    for changes in _milder(chain):
        seen, _, _ = _walk(configure(chain, changes), ctx, base)
        if max(each.peak_bytes + each.forecast.process_bytes for each in seen) <= free:
            return " and ".join(f"{name}={value}" for name, value in changes.items())
    return None


def _milder(chain: Chain) -> Iterator[dict[str, Any]]:
    """Fewer windows at a time first, which costs only time; then fewer windows, ever fewer."""
    links = {each.__name__: each for each in _flat(chain) if hasattr(each, "settings")}
    single = {
        f"{name}.batch_size": 1
        for name, each in links.items()
        if isinstance(each.settings.get("batch_size"), int) and each.settings["batch_size"] > 1
    }
    alone = {f"{name}.compare": False for name in links if name == "save"}
    for changes in (single, alone, {**single, **alone}):
        if changes:
            yield changes
    if "calibrate" in links:
        windows = links["calibrate"].settings["windows"]
        while windows > _FEWEST_WINDOWS:
            windows //= 2
            yield {**single, **alone, "calibrate.windows": windows}
