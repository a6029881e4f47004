"""The first lines of a report: size, cost on each text, and the worst layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ...contexts.verdict import PREFIXES
from ..units import in_bytes
from .elements import listed, table
from .records import ModelRecord

_COSTS = {
    "elsewhere": "rise of perplexity, text from elsewhere",
    "heldout": "rise of perplexity, held-out text",
}
_HEAD = ("model", "weights", "rise, elsewhere", "rise, held-out text", "worst layer")
_UNKNOWN = "not measured"


def worst_layers(facts: Mapping[str, Any], count: int) -> list[Mapping[str, Any]]:
    """The layers with the largest error, the worst first; of a record without errors, none."""
    known = (e for e in listed(facts, "layers") if isinstance(e.get("relative_error"), float))
    return sorted(known, key=lambda layer: -float(layer["relative_error"]))[:count]


def summary(models: Sequence[ModelRecord]) -> str:
    """Tiles for one model; a table with a row each for several."""
    if len(models) > 1:
        return table(_HEAD, ([model.name, *_facts(model).values()] for model in models))
    tiles = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in _facts(models[0]).items()
        if value != _UNKNOWN
    )
    return f'<dl class="facts">{"".join(tiles)}</dl>'


def _facts(model: ModelRecord) -> dict[str, str]:
    return {
        "weights on disk": _size(model),
        **{label: _cost(model, PREFIXES[text]) for text, label in _COSTS.items()},
        "worst layer": _worst(model),
    }


def _size(model: ModelRecord) -> str:
    light, dense = (model.figures(side).get("weight_bytes") for side in ("light", "dense"))
    if light is None:
        return _UNKNOWN
    return in_bytes(light) + (f", {light / dense:.0%} of {in_bytes(dense)}" if dense else "")


def _cost(model: ModelRecord, prefix: str) -> str:
    light = model.figures("light")
    rise, error = light.get(f"{prefix}rise"), light.get(f"{prefix}rise_error")
    if rise is None:
        return _UNKNOWN
    return f"{rise:+.1%}" + ("" if error is None else f" ± {error:.1%}")


def _worst(model: ModelRecord) -> str:
    found = worst_layers(model.facts, 1)
    if not found:
        return _UNKNOWN
    return f"{found[0]['name']}, output error {found[0]['relative_error']:.2%}"
