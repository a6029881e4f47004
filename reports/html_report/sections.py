"""The sections of a report about one model, as HTML. A section without content is empty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

from ...contexts.task_scores import recorded_recovery
from ...errors import MissingExtraError
from ..result import figure_rows
from ..task_table import REMARK, recovery_cells
from ..units import in_bytes, in_time
from . import plots
from .layers import layer_grid
from .records import ModelRecord

_WORST = 8  # layers that the table of the worst ones lists


def headline(model: ModelRecord) -> str:
    """What was made of what, and the figures of both models on both texts."""
    rows = figure_rows({side: model.figures(side) for side in ("dense", "light")})
    if not rows:
        return "<p>No saved model: the run recorded no figures.</p>"
    source = escape(str(model.facts.get("source") or "an unnamed model"))
    table = _table(
        ("", "original", "light"), ([row.label, row.dense, row.light] for row in rows), numbers=True
    )
    remarks = "".join(
        f'<p class="remark">{escape(str(each))}</p>' for each in _listed(model.facts, "remarks")
    )
    opened = (
        "<p>Measured on the saved model in a fresh process; ± is one standard error. The rise is "
        "paired: both models on the same tokens.</p>"
    )
    return f"<p>Made from {source}.</p>{table}{remarks}{opened}{_tasks(model)}"


def _tasks(model: ModelRecord) -> str:
    """Scores on tasks of lm-eval, of both models."""
    found = [recorded_recovery(each) for each in _listed(model.facts, "tasks")]
    if not found:
        return ""
    rows = ([" ".join(cells[:3:2]), *cells[3:]] for cells in map(recovery_cells, found))
    head = ("", "original", "light", "difference", "recovery")
    table = _table(head, rows, numbers=True)
    return f"<h3>Tasks of lm-eval</h3>{table}<p>{escape(REMARK)}</p>"


def size_and_quality(models: Sequence[ModelRecord]) -> str:
    """The frontier: size against rise, of every wave and model."""
    points = [point for model in models for point in model.points()]
    if len(points) < 2:
        return ""
    unused = sorted({point.name for point in points if not point.kept})
    words = f"<p>Evaluated and not used: {escape(', '.join(unused))}.</p>" if unused else ""
    return _plotted(lambda: plots.frontier(points)) + words


def layers(model: ModelRecord) -> str:
    """Bits and error of every linear layer, and the worst layers by name."""
    every = _listed(model.facts, "layers")
    parts = []
    errors = layer_grid(every, "relative_error", "relative output error")
    if errors is not None:
        worst = sorted(
            (layer for layer in every if isinstance(layer.get("relative_error"), float)),
            key=lambda layer: -float(layer["relative_error"]),
        )[:_WORST]
        rows = ([str(e["name"]), f"{e['relative_error']:.2%}", str(e.get("kind"))] for e in worst)
        parts.append(_plotted(lambda: plots.layer_map(errors, logarithmic=_spread(errors.cells))))
        parts.append("<h3>Layers with the largest error</h3>")
        parts.append(_table(("layer", "squared output error", "stored as"), rows))
    bits = layer_grid(every, "bits_per_weight", "bits per weight, scales included")
    if bits is not None:
        parts.append(_plotted(lambda: plots.layer_map(bits)))
    return "".join(parts)


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
            parts.append(_plotted(partial(plots.curves, found)))
    return "".join(parts)


def samples(model: ModelRecord) -> str:
    """Greedy continuations of the same prompts; what differs from the original is marked."""
    rows = []
    for each in _listed(model.facts, "samples"):
        prompt, dense, light = (str(each.get(key, "")) for key in ("prompt", "dense", "light"))
        same = _common(dense, light)
        other = f"<mark>{escape(light[same:])}</mark>" if light[same:] else ""
        marked = f"{escape(light[:same])}{other}"
        rows.append(f"<tr><td>{escape(prompt)}</td><td>{escape(dense)}</td><td>{marked}</td></tr>")
    if not rows:
        return ""
    head = "<tr><th>prompt</th><th>original</th><th>light</th></tr>"
    return f'<div class="wide"><table class="text">{head}{"".join(rows)}</table></div>'


def _common(first: str, second: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return next(
        (place for place, (one, other) in enumerate(pairs) if one != other),
        min(len(first), len(second)),
    )


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
    return _plotted(lambda: plots.timeline(steps)) + _table(
        ("link", "time", "peak memory", "settings"), rows
    )


def provenance(model: ModelRecord) -> str:
    """Texts, machine, versions and checksums."""
    texts = (
        [name, str(text.get("text")), f"{text.get('windows')} × {text.get('length')} tokens"]
        for name, text in _mapping(model.facts, "texts").items()
    )
    parts = [
        ("Texts", _table(("use", "text", "windows"), texts)),
        ("Measured on", _pairs(_mapping(model.facts, "measured_on"))),
        ("Versions", _pairs(_mapping(model.facts, "versions"))),
        ("Files", _files(_mapping(model.facts, "files"))),
    ]
    return "".join(f"<h3>{title}</h3>{content}" for title, content in parts if content)


def _files(files: Mapping[str, Any]) -> str:
    rows = ([name, in_bytes(file["bytes"]), str(file["sha256"])] for name, file in files.items())
    return _table(("file", "size", "SHA-256"), rows)


def _pairs(found: Mapping[str, Any]) -> str:
    rows = ([name.replace("_", " "), str(value)] for name, value in found.items())
    return _table((), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    lines = [
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in rows
    ]
    if not lines:
        return ""
    top = "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>" if head else ""
    kind = ' class="numbers"' if numbers else ""
    return f'<div class="wide"><table{kind}>{top}{"".join(lines)}</table></div>'


def _plotted(plot: Any) -> str:
    """A plot, or the sentence on how to install what draws it."""
    try:
        return f"<figure>{plot()}</figure>"
    except MissingExtraError as error:
        return f'<p class="remark">{escape(str(error))}</p>'


def _listed(facts: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = facts.get(key)
    return found if isinstance(found, list) else []


def _mapping(facts: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = facts.get(key)
    return found if isinstance(found, Mapping) else {}
