"""The report of ``birdbone log``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from .units import in_bytes

_MISSING = "–"
_FEW = 2  # of longer lists only the ends are shown; --json has all values


def steps_report(
    document: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]
) -> RenderableType:
    """Every step with its cost and status, and below it its settings and metrics.

    Args:
        document: from `birdbone.journal.history.history_document`.
        defaults: the default of each setting, by link; settings at their default are left out.
    """
    steps = document["steps"]
    width = max((len(step["link"]) for step in steps), default=0)
    parts: list[RenderableType] = []
    for step in steps:
        parts.append(Text(_head(step, width), style="bold"))
        shown = (_settings(step, defaults.get(step["link"], {})), _metrics(step["metrics"]))
        parts += [Padding(Text(each, overflow="fold"), (0, 0, 0, 6)) for each in shown if each]
    if document["in_progress"]:
        parts.append(Text(f"{document['in_progress']} links were interrupted"))
    parts.append(
        Text(f"{document['folder']}: {in_bytes(document['bytes'])} on disk", overflow="fold")
    )
    return Group(*parts)


def _head(step: Mapping[str, Any], width: int) -> str:
    name = f"{step['number']:>4}  {step['link']:<{width}}"
    cost = f"{step['seconds']:>9,.1f} s {in_bytes(step['peak_bytes']):>9}"
    model = (step["checkpoint"] or _MISSING)[:8]
    return f"{name} {cost}  {model:<8}  {_fate(step)}".rstrip()


def _settings(step: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    shown = [
        f"{name}={value}"
        for name, value in step["settings"].items()
        if name not in defaults or defaults[name] != value
    ]
    return ", ".join(shown)


def _metrics(metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_figure(value)}" for name, value in metrics.items())


def _figure(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        nested = any(isinstance(each, Mapping) for each in value.values())
        return f"of {len(value)} {'metrics' if nested else 'layers'}"
    if isinstance(value, list | tuple) and len(value) > _FEW:
        return f"{_figure(value[0])} … {_figure(value[-1])} ({len(value)})"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _fate(step: Mapping[str, Any]) -> str:
    """Whether the step belongs to the last run, and whether its result was kept."""
    if not step["in_last_run"]:
        return "another run"
    kept = step["metrics"].get("kept")
    return "" if kept is None else "kept" if kept else "reverted"
