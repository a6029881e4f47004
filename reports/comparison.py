"""The report of ``birdbone diff``: corresponding tensors of all blocks share one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .units import in_bytes

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def comparison_report(found: Mapping[str, Any], *, every: bool = False) -> RenderableType:
    """The differences: totals, tensors, config, files.

    Args:
        found: `birdbone.journal.compare_models.ModelComparison` as a dict.
        every: one line per tensor instead of one per group of corresponding tensors.
    """
    parts: list[RenderableType] = [_totals(found)]
    if found["changed"]:
        parts += _changes(found["changed"], every)
    for title in ("added", "removed"):
        if found[title]:
            parts.append(Text(f"tensors {title}: {', '.join(_grouped(found[title], every))}"))
    if found["config"]:
        table = Table("config key", "first", "second")
        for key, (first, second) in found["config"].items():
            table.add_row(Text(key), Text(str(first)), Text(str(second)))
        parts.append(table)
    if found["files"]:
        parts.append(Text(f"files that differ: {', '.join(found['files'])}"))
    return Group(*parts)


def _totals(found: Mapping[str, Any]) -> RenderableType:
    changed, same = len(found["changed"]), found["num_same"]
    lines = Table.grid(padding=(0, 2))
    lines.add_row("tensors", f"{changed} changed, {same} the same")
    first, second = found["parameters"]
    lines.add_row("parameters", f"{first:,} → {second:,}")
    first, second = found["num_bytes"]
    lines.add_row("tensor bytes", f"{in_bytes(first)} → {in_bytes(second)}")
    return lines


def _changes(changes: Sequence[Mapping[str, Any]], every: bool) -> Iterator[RenderableType]:
    """The name of each tensor, with its change on the next line; names do not fit a column."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for each in changes:
        name = each["name"] if every else _NUMBER.sub("*", each["name"])
        key = (name, _pair(each["kinds"], str), _pair(each["shapes"], _shape))
        groups.setdefault(key, []).append(each)
    for (name, kinds, shapes), group in groups.items():
        count = f" ({len(group)})" if len(group) > 1 else ""
        yield Text(f"{name}{count}", style="bold", overflow="fold")
        zeros = [_mean(each["zeros"][side] for each in group) for side in (0, 1)]
        shown = [shapes, kinds, f"zeros {_pair(zeros, '{:.2%}'.format)}"]
        moved = [each["relative"] for each in group if each["relative"] is not None]
        if moved:
            shown.append(f"changed by {_spread(moved)}")
        yield Padding(Text(", ".join(shown)), (0, 0, 0, 2))


def _spread(values: Sequence[float]) -> str:
    least, most = min(values), max(values)
    return f"{least:.3g}" if least == most else f"{least:.3g} to {most:.3g}"


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "one value"


def _pair(values: Sequence[Any], form: Any) -> str:
    first, second = (form(value) for value in values)
    return first if first == second else f"{first} → {second}"


def _grouped(names: Sequence[str], every: bool) -> list[str]:
    if every:
        return list(names)
    counts: dict[str, int] = {}
    for name in names:
        group = _NUMBER.sub("*", name)
        counts[group] = counts.get(group, 0) + 1
    return [f"{name} ({count})" if count > 1 else name for name, count in counts.items()]
