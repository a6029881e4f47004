"""The steps of a run folder as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .table import in_bytes

_MISSING = "–"


def steps_report(
    document: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]
) -> RenderableType:
    """Every step with its settings, cost, metrics and whether it still counts.

    Args:
        document: from `birdbone.journal.history.history_document`.
        defaults: by link, each setting's default; settings at their default are left out.
    """
    table = Table("step", "link", "settings", "time", "memory", "metrics", "model", "")
    for step in document["steps"]:
        table.add_row(
            str(step["number"]),
            Text(step["link"]),
            Text(_settings(step["settings"], defaults.get(step["link"], {})), overflow="fold"),
            f"{step['seconds']:,.1f} s",
            in_bytes(step["peak_bytes"]),
            Text(_metrics(step["metrics"]), overflow="fold"),
            (step["checkpoint"] or _MISSING)[:8],
            _fate(step),
        )
    parts: list[RenderableType] = [table]
    if document["in_progress"]:
        parts.append(Text(f"{document['in_progress']} links left work unfinished"))
    parts.append(Text(f"{document['folder']} takes {in_bytes(document['bytes'])}", overflow="fold"))
    return Group(*parts)


def _settings(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    told = {k: v for k, v in settings.items() if k not in defaults or defaults[k] != v}
    return ", ".join(f"{name}={value}" for name, value in told.items())


def _metrics(metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_figure(value)}" for name, value in metrics.items())


def _figure(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _fate(step: Mapping[str, Any]) -> str:
    """Whether what the step did is part of the model the last run led to."""
    if not step["in_last_run"]:
        return "of another run"
    kept = step["metrics"].get("kept")
    return "" if kept is None else "kept" if kept else "reverted"
