"""The end of a run: dense beside light, minutes per link, what it was measured on, what it means.

Every figure comes from `Saved.figures`, measured on the saved folders in a fresh process; a figure
that was not measured is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..checkpoints import GgmlBlocks, Quantized
from ..contexts.saved import Saved
from ..contexts.steps import Step
from .waves import wave_rows, waves_table

Figures = Mapping[str, Mapping[str, float]]

_MISSING = "–"
_ON_A_GRID = re.compile(r"[._-]q4_[01]\b", re.IGNORECASE)
GRID_REMARK = (
    "Source weights lie on a 4-bit grid with blocks of 32, which flatters grids like it: "
    "quantisation costs more on a model that was never quantised."
)
_MASK_REMARK = (
    "Zeros inside a weight matrix are a mask: stored and multiplied like any other value, they "
    "change neither the bytes on disk nor the speed."
)
SHARE_WORTH_A_REMARK = 0.001


@dataclass(frozen=True)
class Row:
    """One line of the table: what it is, and the texts of its cells."""

    label: str
    dense: str
    light: str


def in_bytes(count: float) -> str:
    """A size in decimal units, as disks are sold."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


_ROWS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("weight_bytes", "weights on disk", in_bytes),
    ("parameters", "parameters", _whole),
    ("nonzero", "of which not zero", _whole),
    ("perplexity", "perplexity ± standard error", "{:,.3f}".format),
    ("mean_kl", "mean KL to dense, nats/token", "{:.4f}".format),
    ("agreement", "top-1 agreement with dense", "{:.1%}".format),
    ("prefill_tokens_per_second", "prefill, tokens/s", "{:,.1f}".format),
    ("decode_tokens_per_second", "decode, tokens/s", "{:,.1f}".format),
    ("peak_bytes", "peak memory of the process", in_bytes),
)


def figure_rows(figures: Figures) -> list[Row]:
    """Every figure that was measured on at least one side, in reading order."""
    dense, light = figures.get("dense", {}), figures.get("light", {})
    return [
        Row(label, _cell(dense, key, form), _cell(light, key, form))
        for key, label, form in _ROWS
        if key in dense or key in light
    ]


def _cell(found: Mapping[str, float], key: str, form: Callable[[float], str]) -> str:
    if key not in found:
        return _MISSING
    error = found.get(f"{key}_error")
    return form(found[key]) + ("" if error is None else f" ± {form(error)}")


def step_rows(history: Sequence[Step]) -> list[tuple[str, str]]:
    """Each link of the chain that ran, in order, with its minutes, and their sum.

    Links that ran within another are part of that one's minutes, and are left out.
    """
    rows = [(step.link, step.cost.seconds) for step in history if step.within is None]
    rows.append(("all links", sum(seconds for _, seconds in rows)))
    return [(name, f"{seconds / 60:.2f} min") for name, seconds in rows]


def remarks(
    figures: Figures, history: Sequence[Step], source: str, *, has_codes: bool = False
) -> list[str]:
    """Sentences without which the figures would say more than is true.

    Args:
        has_codes: the model has codes, whoever chose them.
    """
    said = []
    links = {step.link for step in history}
    share = _zero_share(figures.get("light", {}))
    # Rounding to few bits makes zeros too, and those are nobody's mask.
    masked = any(_leaves_a_mask(step) for step in history)
    rounded = has_codes or "quantize" in links
    if share >= SHARE_WORTH_A_REMARK and (masked or not rounded):
        said.append(f"{share:.1%} of the parameters are zero. {_MASK_REMARK}")
    if "quantize" in links and is_on_a_grid(source):
        said.append(GRID_REMARK)
    return said


def _remarks(saved: Saved, result: Mapping[str, Any]) -> list[str]:
    source = str(getattr(result.get("dense"), "source", ""))
    refs = getattr(result.get("checkpoint"), "refs", {}).values()
    has_codes = any(isinstance(ref, Quantized | GgmlBlocks) for ref in refs)
    return remarks(saved.figures, result.get("history", ()), source, has_codes=has_codes)


def _leaves_a_mask(step: Step) -> bool:
    """Whether a step zeroed weights; pruning that leaves fewer parameters zeroes none."""
    return step.link == "prune" and "parameters_after" not in step.metrics


def _zero_share(light: Mapping[str, float]) -> float:
    return 1 - light["nonzero"] / light["parameters"] if light.get("parameters") else 0.0


def is_on_a_grid(source: str) -> bool:
    """Whether a model's name says that its weights were multiplied out of 4-bit blocks of 32."""
    return _ON_A_GRID.search(source) is not None


def result_report(result: Mapping[str, Any]) -> RenderableType:
    """What a person reads of a finished run, from the context it ended with."""
    saved: Saved | None = result.get("saved")
    history: Sequence[Step] = result.get("history", ())
    if saved is None:
        return Group(_minutes(history), Text("Nothing was saved, so nothing was measured."))
    rows = wave_rows(history)
    parts: list[RenderableType] = [waves_table(rows)] if rows else []
    parts.append(_table(saved.figures, history))
    parts += [Text(remark) for remark in _remarks(saved, result)]
    parts.append(_measured_on(saved.measured_on))
    parts.append(Text(f"Saved in {saved.path}", overflow="fold"))
    return Group(*parts)


def _table(figures: Figures, history: Sequence[Step]) -> Table:
    sides = [side for side in ("dense", "light") if side in figures]
    table = Table("")
    for side in sides:
        table.add_column(side, justify="right")
    for row in figure_rows(figures):
        table.add_row(row.label, *(getattr(row, side) for side in sides))
    table.add_section()
    for name, minutes in step_rows(history):
        table.add_row(Text(name), *("" for _ in sides[1:]), minutes)
    return table


def _minutes(history: Sequence[Step]) -> Table:
    table = Table("link", "time")
    for name, minutes in step_rows(history):
        table.add_row(Text(name), minutes)
    return table


def _measured_on(measured_on: Mapping[str, str]) -> RenderableType:
    lines = Table.grid(padding=(0, 2))
    for name, value in measured_on.items():
        lines.add_row(Text(name), Text(value))
    opener = opened_by(measured_on)
    head = f"Measured on the saved folders, opened by {opener} in a fresh process:"
    return Group(Text(head), lines)


def opened_by(measured_on: Mapping[str, str]) -> str:
    """What ran the saved folder; its version is among the words on what it was measured on."""
    if "llama.cpp" not in measured_on:
        return "plain transformers"
    dense = ", the dense one by plain transformers" if "transformers" in measured_on else ""
    return f"llama.cpp{dense},"


def result_document(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a program reads of a finished run, in types JSON knows; a NaN becomes null."""
    saved: Saved | None = result.get("saved")
    document: dict[str, Any] = {
        "path": None if saved is None else str(saved.path),
        "figures": {} if saved is None else {k: dict(v) for k, v in saved.figures.items()},
        "measured_on": {} if saved is None else dict(saved.measured_on),
        "remarks": [],
        "steps": [step.as_dict() for step in result.get("history", ())],
    }
    if saved is not None:
        document["remarks"] = _remarks(saved, result)
    found: dict[str, Any] = _finite(document)
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
