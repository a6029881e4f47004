"""The sections of a report about one model, as HTML. A section without content is empty."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

from ...contexts.task_scores import recorded_recovery
from ..result import figure_rows
from ..task_table import REMARK, recovery_cells
from ..units import in_bytes, in_time
from . import plots
from .elements import listed, mapping, pairs, plotted, remark, table
from .layers import LayerGrid, layer_grid
from .records import ModelRecord
from .summary import worst_layers

_WORST = 8  # layers that the table of the worst ones lists
_MAPS = (
    ("relative_error", "Error", "squared output error, relative"),
    ("sensitivity", "Sensitivity", "estimated rise of the loss, nats"),
    ("bits_per_weight", "Bits", "bits per weight, scales included"),
    ("width", "Width", "fraction of the original's weights"),
)
_BENCH: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("weight_bytes", in_bytes),
    ("prefill_tokens_per_second", "{:,.1f}".format),
    ("decode_tokens_per_second", "{:,.1f}".format),
    ("peak_bytes", in_bytes),
)
_IF_VARIED = ("width",)
_LOGARITHMIC = ("relative_error", "sensitivity")


def headline(model: ModelRecord) -> str:
    """What was made of what, and the figures of both models on both texts."""
    rows = figure_rows({side: model.figures(side) for side in ("dense", "light")})
    if not rows:
        return "<p>No saved model: the run recorded no figures.</p>"
    source = escape(str(model.facts.get("source") or "an unnamed model"))
    figures = table(
        ("", "original", "light"), ([row.label, row.dense, row.light] for row in rows), numbers=True
    )
    remarks = "".join(remark(str(each)) for each in listed(model.facts, "remarks"))
    opened = (
        "<p>Measured on the saved model in a fresh process; ± is one standard error. The rise is "
        "paired: both models on the same tokens.</p>"
    )
    return f"<p>Made from {source}.</p>{figures}{remarks}{opened}{_tasks(model)}"


def _tasks(model: ModelRecord) -> str:
    """Scores on tasks of lm-eval, of both models."""
    found = [recorded_recovery(each) for each in listed(model.facts, "tasks")]
    if not found:
        return ""
    rows = ([" ".join(cells[:3:2]), *cells[3:]] for cells in map(recovery_cells, found))
    head = ("", "original", "light", "difference", "recovery")
    scores = table(head, rows, numbers=True)
    return f"<h3>Tasks of lm-eval</h3>{scores}<p>{escape(REMARK)}</p>"


def size_and_quality(models: Sequence[ModelRecord]) -> str:
    """The frontier: size against rise, of every wave and model."""
    points = [point for model in models for point in model.points()]
    if len(points) < 2:
        return ""
    unused = sorted({point.name for point in points if not point.kept})
    words = f"<p>Evaluated and not used: {escape(', '.join(unused))}.</p>" if unused else ""
    return plotted(lambda: plots.frontier(points)) + words


def layers(model: ModelRecord) -> str:
    """The worst layers by name; error, sensitivity, bits and width of every linear layer."""
    every = listed(model.facts, "layers")
    worst = (
        [str(e["name"]), f"{e['relative_error']:.2%}", str(e.get("kind"))]
        for e in worst_layers(model.facts, _WORST)
    )
    named = table(("layer", "squared output error", "stored as"), worst)
    parts = [f"<h3>Layers with the largest error</h3>{named}"] if named else []
    for key, title, unit in _MAPS:
        grid = layer_grid(every, key, unit)
        if grid is None:
            continue
        values = set(grid.cells.values())
        if len(values) > 1:
            parts.append(f"<h3>{title}</h3>{_map(grid, logarithmic=key in _LOGARITHMIC)}")
        elif key not in _IF_VARIED:
            parts.append(f"<h3>{title}</h3><p>All linear layers: {values.pop():.4g} {unit}.</p>")
    return "".join(parts)


def _map(grid: LayerGrid, *, logarithmic: bool) -> str:
    wide = logarithmic and _spread(grid.cells)
    return plotted(lambda: plots.layer_map(grid, logarithmic=wide))


def _spread(cells: Mapping[tuple[str, str], float]) -> bool:
    """Whether a logarithmic scale fits: all values positive, and far apart."""
    values = cells.values()
    return min(values) > 0 and max(values) > 5 * min(values)


def healing(model: ModelRecord) -> str:
    """The losses of each step of healing."""
    parts = []
    for step in model.facts["steps"]:
        found = {
            name: values
            for name, values in step["metrics"].items()
            if step["link"] == "heal" and isinstance(values, list) and values
        }
        if found:
            parts.append(plotted(partial(plots.curves, found)))
    return "".join(parts)


def speed(model: ModelRecord) -> str:
    """What ``birdbone bench`` recorded beside the model: size, speed and memory by runtime."""
    found = mapping(model.facts, "bench")
    rows = []
    for each in listed(found, "models"):
        figures = mapping(each, "figures")
        cells = (_of_bench(figures, key, form) for key, form in _BENCH)
        rows.append([str(each.get("model")), str(each.get("runtime")), *cells])
    head = ("model", "runtime", "size", "prefill, tokens/s", "decode, tokens/s", "peak memory")
    measured = pairs(mapping(found, "measured_on"))
    return table(head, rows, numbers=True) + measured if rows else ""


def _of_bench(figures: Mapping[str, Any], key: str, form: Callable[[float], str]) -> str:
    value = figures.get(key)
    return form(value) if isinstance(value, int | float) else "–"


def links(model: ModelRecord) -> str:
    """The links that ran: when, how long, memory, settings."""
    steps = model.steps()
    rows = (
        [
            str(step["link"]),
            in_time(step["seconds"]),
            in_bytes(step["peak_bytes"]) if step.get("peak_bytes") else "–",
            ", ".join(f"{name}={value!r}" for name, value in step["settings"].items()),
        ]
        for step in steps
    )
    return plotted(lambda: plots.timeline(steps)) + table(
        ("link", "time", "peak memory", "settings"), rows
    )


def provenance(model: ModelRecord) -> str:
    """Texts, machine, versions and checksums."""
    texts = (
        [name, str(text.get("text")), f"{text.get('windows')} × {text.get('length')} tokens"]
        for name, text in mapping(model.facts, "texts").items()
    )
    parts = [
        ("Texts", table(("use", "text", "windows"), texts)),
        ("Measured on", pairs(mapping(model.facts, "measured_on"))),
        ("Versions", pairs(_versions(model.facts))),
        ("Checksums of the models", pairs(_ids(model.facts))),
        ("Files", _files(mapping(model.facts, "files"))),
    ]
    return "".join(f"<h3>{title}</h3>{content}" for title, content in parts if content)


def _versions(facts: Mapping[str, Any]) -> dict[str, Any]:
    ours = {"bird-bone": facts["birdbone"]} if facts.get("birdbone") else {}
    return {**ours, **mapping(facts, "versions")}


def _ids(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Ids of both models, and the last link of the hash chain, which covers steps and files."""
    names = {"original": facts.get("dense"), "light": facts.get("checkpoint")}
    chain = listed(facts, "chain")
    return {name: each for name, each in names.items() if each} | (
        {"hash chain": chain[-1]} if chain else {}
    )


def _files(files: Mapping[str, Any]) -> str:
    rows = ([name, in_bytes(file["bytes"]), str(file["sha256"])] for name, file in files.items())
    return table(("file", "size", "SHA-256"), rows)
