"""The table of ``birdbone bench``: one row per model, and how it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..formats.runtime_benchmark import BenchmarkResult
from .units import in_bytes

_MISSING = "–"
_LONGEST_NAME = 8  # longer names go below the table, which must fit 80 columns


def contest_report(
    standings: Sequence[BenchmarkResult], measured_on: Mapping[str, str]
) -> RenderableType:
    """Size, perplexity, speed and memory of every model as a table."""
    named = max(len(each.model) for each in standings) <= _LONGEST_NAME
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("model" if named else "", no_wrap=True)
    for heading in ("runtime", "bytes", "perplexity", "prefill", "decode", "peak"):
        table.add_column(heading, justify="left" if heading == "runtime" else "right")
    for number, each in enumerate(standings, 1):
        label = Text(each.model if named else str(number))
        table.add_row(label, each.runtime, *_cells(each.figures))
        if "elsewhere_perplexity" in each.figures:
            table.add_row("", "elsewhere", "", _perplexity(each.figures, "elsewhere_"))
    names = [] if named else [f"{n}: {each.model}" for n, each in enumerate(standings, 1)]
    remark = Text(
        "prefill and decode: tokens/s; peak: memory; medians, each run in its own process"
    )
    lines = [Text(f"{name.replace('_', ' ')}: {value}") for name, value in measured_on.items()]
    environments = {f"{each.runtime}: {_words(each.environment)}": None for each in standings}
    legend = (Text(name, overflow="fold") for name in names)
    return Group(table, *legend, remark, *lines, *map(Text, environments))


def contest_document(
    standings: Sequence[BenchmarkResult], measured_on: Mapping[str, str]
) -> dict[str, Any]:
    """The same as types that JSON can represent."""
    return {"measured_on": dict(measured_on), "models": [each.as_dict() for each in standings]}


def _cells(figures: Mapping[str, float]) -> list[str]:
    return [
        in_bytes(figures["weight_bytes"]),
        _perplexity(figures, ""),
        f"{figures['prefill_tokens_per_second']:,.1f}",
        f"{figures['decode_tokens_per_second']:,.1f}",
        in_bytes(figures["peak_bytes"]),
    ]


def _perplexity(figures: Mapping[str, float], prefix: str) -> str:
    """Perplexity on one text, by what the names of its figures begin with."""
    value, error = (figures.get(f"{prefix}{name}") for name in ("perplexity", "perplexity_error"))
    found = _MISSING if value is None else f"{value:,.3f}"
    return found if error is None else f"{found} ± {error:,.3f}"


def _words(environment: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in environment.items())
