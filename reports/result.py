"""The report of a finished run: the dense and the light model, time per link, how it was measured.

Every figure comes from `Saved.figures`, measured on the saved model in a fresh process. Figures
that were not measured are left out.
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
from .both_texts import NOT_USED, TEXT_ROWS, text_remarks
from .candidates import candidate_rows, candidates_table
from .task_table import recovery_table
from .units import in_bytes, in_time
from .waves import wave_rows, waves_table

Figures = Mapping[str, Mapping[str, float]]

_MISSING = "–"
_ON_A_GRID = re.compile(r"[._-]q4_[01]\b", re.IGNORECASE)
GRID_REMARK = (
    "The source weights were dequantised from 4-bit blocks of 32, so quantising them again costs "
    "less than quantising a model that was never quantised."
)
_MASK_REMARK = (
    "They are a mask: zeros inside a weight matrix are stored and multiplied like other values, so "
    "they change neither the size on disk nor the speed."
)
SHARE_WORTH_A_REMARK = 0.001


@dataclass(frozen=True)
class Row:
    """One line of the table: its label and the text of its cells."""

    label: str
    dense: str
    light: str


def _whole(value: float) -> str:
    return f"{value:,.0f}"


_ROWS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("weight_bytes", "weights on disk", in_bytes),
    ("parameters", "parameters", _whole),
    ("nonzero", "of which not zero", _whole),
    *((key, label, form.format) for key, label, form in TEXT_ROWS),
    ("prefill_tokens_per_second", "prefill, tokens/s", "{:,.1f}".format),
    ("decode_tokens_per_second", "decode, tokens/s", "{:,.1f}".format),
    ("peak_bytes", "peak memory of the process", in_bytes),
)


def figure_rows(figures: Figures) -> list[Row]:
    """The figures that were measured for at least one of the models, in display order."""
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
    """Each link that ran, in order, with its wall time, and their sum.

    Links that ran inside another link are part of that link's time and are left out.
    """
    rows = [(step.link, step.cost.seconds) for step in history if step.within is None]
    rows.append(("all links", sum(seconds for _, seconds in rows)))
    return [(name, in_time(seconds)) for name, seconds in rows]


def remarks(
    figures: Figures, history: Sequence[Step], source: str, *, has_codes: bool = False
) -> list[str]:
    """Remarks needed to interpret the figures.

    Args:
        has_codes: whether the model has quantised weights, made here or before.
    """
    remarks = text_remarks(figures)
    links = {step.link for step in history}
    fraction = _zero_share(figures.get("light", {}))
    # Rounding to few bits makes zeros too, and those are not a mask.
    masked = any(_leaves_a_mask(step) for step in history)
    rounded = has_codes or "quantize" in links
    if fraction >= SHARE_WORTH_A_REMARK and (masked or not rounded):
        remarks.append(f"{fraction:.1%} of the parameters are zero. {_MASK_REMARK}")
    if "quantize" in links and is_on_a_grid(source):
        remarks.append(GRID_REMARK)
    return remarks


def _remarks(saved: Saved, result: Mapping[str, Any]) -> list[str]:
    source = str(getattr(result.get("dense"), "source", ""))
    refs = getattr(result.get("checkpoint"), "refs", {}).values()
    has_codes = any(isinstance(ref, Quantized | GgmlBlocks) for ref in refs)
    return remarks(saved.figures, result.get("history", ()), source, has_codes=has_codes)


def _leaves_a_mask(step: Step) -> bool:
    """Whether a step zeroed weights; structured pruning removes parameters instead."""
    return step.link == "prune" and "parameters_after" not in step.metrics


def _zero_share(light: Mapping[str, float]) -> float:
    return 1 - light["nonzero"] / light["parameters"] if light.get("parameters") else 0.0


def is_on_a_grid(source: str) -> bool:
    """Whether the name of a model says that its weights come from 4-bit blocks of 32."""
    return _ON_A_GRID.search(source) is not None


def result_report(result: Mapping[str, Any]) -> RenderableType:
    """The report of a finished run, from its final context."""
    saved: Saved | None = result.get("saved")
    history: Sequence[Step] = result.get("history", ())
    if saved is None:
        return Group(
            _minutes(history),
            Text("The chain has no save link, so nothing was saved and measured."),
        )
    rows = wave_rows(history)
    candidates = candidate_rows(history)
    parts: list[RenderableType] = [waves_table(rows)] if rows else []
    parts += [candidates_table(candidates)] if candidates else []
    parts.append(_table(saved.figures, history))
    verdict = result.get("verdict")
    parts += [recovery_table(verdict.tasks)] if verdict is not None and verdict.tasks else []
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
        lines.add_row(Text(name.replace("_", " ")), Text(value))
    opener = opened_by(measured_on)
    head = (
        f"Measured on the saved model, opened by {opener} in a fresh process; ± is one standard "
        f"error.{f' {NOT_USED}' if 'elsewhere' in measured_on else ''}"
    )
    return Group(Text(head), lines)


def opened_by(measured_on: Mapping[str, str]) -> str:
    """The runtime that opened the saved model; ``measured_on`` has its version."""
    if "llama.cpp" not in measured_on:
        return "plain transformers"
    dense = " (the dense model by plain transformers)" if "transformers" in measured_on else ""
    return f"llama.cpp{dense}"


def result_document(result: Mapping[str, Any]) -> dict[str, Any]:
    """A finished run as types that JSON can represent; NaN becomes null."""
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
