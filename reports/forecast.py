"""Tables of the expected cost of a run, and of estimates beside measurements after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..contexts.forecast import Expected, Preflight
from ..contexts.saved import Saved
from ..contexts.steps import Step
from ..models.writing.publishing import files_of, records_of
from ..texts import SourceReport
from .units import in_bytes, in_time


@dataclass(frozen=True)
class LinkComparison:
    """The expected and the measured cost of one link.

    Attributes:
        link: its name; links with the same name are added up.
        expected_seconds, seconds: wall time; None if it could not be estimated.
        expected_peak_bytes, peak_bytes: peak memory of this process.
        expected_disk_bytes, disk_bytes: written to disk; 0 for links that write no model.
    """

    link: str
    expected_seconds: float | None
    seconds: float
    expected_peak_bytes: int
    peak_bytes: int
    expected_disk_bytes: int = 0
    disk_bytes: int = 0


def preflight_report(found: Preflight) -> RenderableType:
    """Expected time, memory and disk of each link in order, with notes and warnings."""
    beside = any(each.process_bytes for each in found.links)
    host = any(each.host_bytes for each in found.links)
    table = Table("link")
    columns = ("on the device", "in memory") if host else ("peak memory",)
    for column in ("time", *columns, *(("fresh processes",) if beside else ()), "disk"):
        table.add_column(column, justify="right")
    for each in found.links:
        processes = (in_bytes(each.process_bytes) if each.process_bytes else "",)
        table.add_row(
            Text(each.link),
            in_time(each.seconds),
            in_bytes(each.peak_bytes),
            *((in_bytes(each.host_bytes),) if host else ()),
            *(processes if beside else ()),
            in_bytes(each.disk_bytes) if each.disk_bytes else "",
        )
    table.add_section()
    table.add_row("the run", in_time(found.run_seconds), in_bytes(found.peak_bytes))
    lines = [*_written(found), *_known(found), *(f"Note: {each}" for each in found.cautions)]
    title = Text("Expected cost:")
    texts = [_texts(found.texts)] if found.texts else []
    return Group(title, table, *texts, *(Text(line) for line in lines))


def _texts(found: Sequence[SourceReport]) -> RenderableType:
    """The sources of text: a line with name, use and scripts each, and its figures below."""
    table = Table("text")
    for column in ("weight", "documents", "duplicates", "characters", "tokens"):
        table.add_column(column, justify="right")
    lines = []
    for place, each in enumerate(found, 1):
        scripts = ", ".join(f"{name} {part:.0%}" for name, part in each.scripts.items())
        lines.append(f"{place}: {each.name}, for {each.use}{f'; {scripts}' if scripts else ''}")
        table.add_row(
            str(place),
            f"{each.weight:.2g}",
            f"{each.documents:,}",
            "–" if each.duplicates is None else f"{each.duplicates:,}",
            f"{each.characters:,}",
            f"{'~' if each.is_estimate else ''}{each.tokens:,}",
        )
    return Group(table, *(Text(line) for line in lines))


def _written(found: Preflight) -> Iterator[str]:
    for each in found.links:
        if each.writes:
            passing = each.passing_disk_bytes
            more = f", and {in_bytes(passing)} temporarily" if passing else ""
            yield f"Will write {each.writes}: {in_bytes(each.disk_bytes)}{more}."


def _known(found: Preflight) -> Iterator[str]:
    """What the estimates are based on, and what they leave out."""
    yield from dict.fromkeys(f"{each.link}: {note}." for each in found.links for note in each.notes)
    if found.blind_from is not None:
        yield f"The cost of '{found.blind_from}' and of the links after it is not known."
    if found.speed is not None:
        yield (
            f"Times are based on one block, {found.speed.block:.3f} s for a window of "
            f"{found.speed.window} tokens, and may be off by a factor of 2."
        )
    yield f"{in_bytes(found.free_bytes)} of memory are free. Estimating took {found.seconds:.1f} s."


def preflight_document(found: Preflight) -> dict[str, Any]:
    """The same as types that JSON can represent."""
    links = [
        {
            "link": each.link,
            "seconds": each.seconds,
            "peak_bytes": each.peak_bytes,
            "host_bytes": each.host_bytes,
            "process_bytes": each.process_bytes,
            "disk_bytes": each.disk_bytes,
            "passing_disk_bytes": each.passing_disk_bytes,
            "writes": each.writes,
            "guessed": each.guessed,
            "notes": list(each.notes),
        }
        for each in found.links
    ]
    return {
        "links": links,
        "seconds": found.run_seconds,
        "peak_bytes": found.peak_bytes,
        "free_bytes": found.free_bytes,
        "speed": None if found.speed is None else asdict(found.speed),
        "preflight_seconds": found.seconds,
        "blind_from": found.blind_from,
        "cautions": list(found.cautions),
        "texts": [{**asdict(each), "scripts": dict(each.scripts)} for each in found.texts],
    }


def in_short(found: Preflight) -> str:
    """The estimate of a run in one line."""
    disk = sum(each.disk_bytes for each in found.links)
    seen = "" if found.blind_from is None else f", up to '{found.blind_from}'"
    return (
        f"expected: {in_time(found.run_seconds)}, {in_bytes(found.peak_bytes)} of memory, "
        f"{in_bytes(disk)} on disk{seen}; --dry-run shows each link"
    )


def outcomes(found: Preflight, result: Mapping[str, Any]) -> list[LinkComparison]:
    """The expected and the measured cost of every link that was estimated and ran."""
    names = dict.fromkeys(each.link for each in found.links)
    ran = [step for step in result.get("history", ()) if step.within is None]
    saved: Saved | None = result.get("saved")
    left_bytes = 0 if saved is None else _left(saved.path)
    return [
        _outcome(
            [each for each in found.links if each.link == name],
            [step for step in ran if step.link == name],
            left_bytes,
        )
        for name in names
        if any(step.link == name for step in ran)
    ]


def _left(saved: Path) -> int:
    """Bytes on disk of a saved folder, or of a GGUF file and its records."""
    if not saved.is_file():
        return sum(path.stat().st_size for path in files_of(saved).values())
    return saved.stat().st_size + _left(records_of(saved))


def _outcome(expected: Iterable[Expected], ran: Sequence[Step], left_bytes: int) -> LinkComparison:
    estimates = list(expected)
    disk = sum(each.disk_bytes for each in estimates)
    return LinkComparison(
        link=ran[0].link,
        expected_seconds=_sum(each.seconds for each in estimates),
        seconds=sum(step.cost.seconds for step in ran),
        expected_peak_bytes=max(each.peak_bytes for each in estimates),
        peak_bytes=max(step.cost.peak_bytes for step in ran),
        expected_disk_bytes=disk,
        disk_bytes=left_bytes if disk else 0,
    )


def outcomes_report(rows: Sequence[LinkComparison]) -> RenderableType:
    """Estimates, measurements and their ratio."""
    table = Table("link")
    for column in ("time", "measured", "ratio", "peak", "measured", "off"):
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
    expected, was = _sum(each.expected_seconds for each in rows), sum(each.seconds for each in rows)
    table.add_section()
    table.add_row("all", in_time(expected), in_time(was), _factor(expected, was), *_highest(rows))
    parts: list[RenderableType] = [Text("Expected and measured cost:"), table]
    parts += [
        Text(
            f"disk of {each.link}: expected {in_bytes(each.expected_disk_bytes)}, measured "
            f"{in_bytes(each.disk_bytes)}, {_share(each.expected_disk_bytes, each.disk_bytes)}"
        )
        for each in rows
        if each.disk_bytes
    ]
    return Group(*parts)


def _highest(rows: Sequence[LinkComparison]) -> tuple[str, str, str]:
    expected = max(each.expected_peak_bytes for each in rows)
    was = max(each.peak_bytes for each in rows)
    return in_bytes(expected), in_bytes(was), _share(expected, was)


def outcomes_document(rows: Sequence[LinkComparison]) -> list[Mapping[str, Any]]:
    """The same as types that JSON can represent."""
    return [asdict(each) for each in rows]


def _sum(seconds: Iterable[float | None]) -> float | None:
    known = list(seconds)
    return None if None in known else sum(each or 0.0 for each in known)


def _factor(expected: float | None, was: float) -> str:
    return f"×{expected / was:.2f}" if expected is not None and was > 0 else "–"


def _share(expected: int, was: int) -> str:
    return f"{expected / was - 1:+.0%}" if was > 0 else "–"
