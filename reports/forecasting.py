"""What a run is expected to cost, and afterwards how far off that was, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..contexts.forecast import Expected, Preflight
from ..contexts.saved import Saved
from ..contexts.steps import Step
from .table import in_bytes


@dataclass(frozen=True)
class Outcome:
    """One link's expected cost beside what it cost.

    Attributes:
        link: its name; several links of one name count together.
        expected_seconds, seconds: wall time.
        expected_peak_bytes, peak_bytes: of this process.
        expected_disk_bytes, disk_bytes: left on the disk; 0 for links that write no folder.
    """

    link: str
    expected_seconds: float
    seconds: float
    expected_peak_bytes: int
    peak_bytes: int
    expected_disk_bytes: int = 0
    disk_bytes: int = 0


def preflight_report(found: Preflight) -> RenderableType:
    """The links in order with time, memory and disk, and what will be written."""
    table = Table("link")
    for column in ("time", "peak memory", "fresh processes", "disk"):
        table.add_column(column, justify="right")
    for each in found.links:
        table.add_row(
            Text(each.link),
            in_time(each.seconds),
            in_bytes(each.peak_bytes),
            in_bytes(each.process_bytes) if each.process_bytes else "",
            _disk(each),
        )
    table.add_section()
    table.add_row("the run", in_time(found.run_seconds), in_bytes(found.peak_bytes), "", "")
    parts: list[RenderableType] = [Text("Expected, before anything was run:"), table]
    parts += [Text(f"Will write {each.writes}") for each in found.links if each.writes]
    if found.blind_from is not None:
        parts.append(
            Text(f"'{found.blind_from}' says nothing of itself: from there on nothing can be seen.")
        )
    parts.append(
        Text(
            f"{in_bytes(found.free_bytes)} of memory can be had. Times rest on one block, "
            f"{found.speed.block:.3f} s for a window of {found.speed.window} tokens, and may be "
            f"off by a factor of 2. Looking took {found.seconds:.1f} s."
        )
    )
    return Group(*parts)


def preflight_document(found: Preflight) -> dict[str, Any]:
    """The same in types JSON knows."""
    links = [
        {
            "link": each.link,
            "seconds": each.seconds,
            "peak_bytes": each.peak_bytes,
            "process_bytes": each.process_bytes,
            "disk_bytes": each.disk_bytes,
            "passing_disk_bytes": each.passing_disk_bytes,
            "writes": each.writes,
        }
        for each in found.links
    ]
    return {
        "links": links,
        "seconds": found.run_seconds,
        "peak_bytes": found.peak_bytes,
        "free_bytes": found.free_bytes,
        "speed": asdict(found.speed),
        "preflight_seconds": found.seconds,
        "blind_from": found.blind_from,
    }


def in_short(found: Preflight) -> str:
    """One line before a run."""
    disk = sum(each.disk_bytes for each in found.links)
    seen = "" if found.blind_from is None else f", as far as '{found.blind_from}'"
    return (
        f"expected: {in_time(found.run_seconds)}, {in_bytes(found.peak_bytes)} of memory, "
        f"{in_bytes(disk)} on disk{seen}; --dry-run shows each link"
    )


def outcomes(found: Preflight, result: Mapping[str, Any]) -> list[Outcome]:
    """Expected beside measured, for every link that was expected and ran."""
    names = dict.fromkeys(each.link for each in found.links)
    ran = [step for step in result.get("history", ()) if step.within is None]
    saved: Saved | None = result.get("saved")
    left_bytes = 0 if saved is None else sum(path.stat().st_size for path in saved.path.iterdir())
    return [
        _outcome(
            [each for each in found.links if each.link == name],
            [step for step in ran if step.link == name],
            left_bytes,
        )
        for name in names
        if any(step.link == name for step in ran)
    ]


def _outcome(expected: Iterable[Expected], ran: Sequence[Step], left_bytes: int) -> Outcome:
    told = list(expected)
    disk = sum(each.disk_bytes for each in told)
    return Outcome(
        link=ran[0].link,
        expected_seconds=sum(each.seconds for each in told),
        seconds=sum(step.cost.seconds for step in ran),
        expected_peak_bytes=max(each.peak_bytes for each in told),
        peak_bytes=max(step.cost.peak_bytes for step in ran),
        expected_disk_bytes=disk,
        disk_bytes=left_bytes if disk else 0,
    )


def outcomes_report(rows: Sequence[Outcome]) -> RenderableType:
    """Expected, measured, and the one over the other, at the end of a run."""
    table = Table("link")
    for column in ("time: expected", "was", "off", "peak: expected", "was", "off"):
        table.add_column(column, justify="right")
    for each in rows:
        table.add_row(
            Text(each.link),
            in_time(each.expected_seconds),
            in_time(each.seconds),
            _factor(each.expected_seconds, each.seconds),
            in_bytes(each.expected_peak_bytes),
            in_bytes(each.peak_bytes),
            _share(each.expected_peak_bytes, each.peak_bytes),
        )
    table.add_section()
    told, was = sum(each.expected_seconds for each in rows), sum(each.seconds for each in rows)
    table.add_row("all", in_time(told), in_time(was), _factor(told, was), "", "", "")
    parts: list[RenderableType] = [Text("Estimates beside what happened:"), table]
    parts += [
        Text(
            f"disk of {each.link}: expected {in_bytes(each.expected_disk_bytes)}, was "
            f"{in_bytes(each.disk_bytes)}, {_share(each.expected_disk_bytes, each.disk_bytes)}"
        )
        for each in rows
        if each.disk_bytes
    ]
    return Group(*parts)


def outcomes_document(rows: Sequence[Outcome]) -> list[Mapping[str, Any]]:
    """The same in types JSON knows."""
    return [asdict(each) for each in rows]


def in_time(seconds: float) -> str:
    """Seconds in the unit a person would use."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _factor(expected: float, was: float) -> str:
    return f"×{expected / was:.2f}" if was > 0 else "–"


def _share(expected: int, was: int) -> str:
    return f"{expected / was - 1:+.0%}" if was > 0 else "–"


def _disk(each: Expected) -> str:
    if not each.disk_bytes:
        return ""
    passing = f" (+{in_bytes(each.passing_disk_bytes)})" if each.passing_disk_bytes else ""
    return in_bytes(each.disk_bytes) + passing
