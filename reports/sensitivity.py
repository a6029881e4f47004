"""The report of ``birdbone sensitivity``: the linears that lose most by fewer bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..contexts.sensitivity import LinearSensitivity, Sensitivity
from ..errors import DataError
from .figures import draw_plot_file
from .html_report.layers import layer_grid
from .html_report.plots import draw_layers, layers_size
from .units import in_bytes

_MISSING = "–"
_BAR = 20  # characters of the longest bar


def ranked(found: Sensitivity, bits: int) -> list[tuple[str, LinearSensitivity, float]]:
    """The linears by descending loss at a number of bits, those without an estimate left out."""
    rows = [(name, each, each.loss_at(bits)) for name, each in found.linears.items()]
    known = [(name, each, loss) for name, each, loss in rows if loss is not None]
    return sorted(known, key=lambda row: -row[2])


def sensitivity_report(found: Sensitivity, *, bits: int, top: int) -> RenderableType:
    """The worst linears, with their loss at every number of bits, and the sums over the model."""
    rows, widths = ranked(found, bits), _bits_of(found)
    total = sum(loss for _, _, loss in rows) or 1.0
    table = Table(
        title=f"Estimated rise of the loss, 1/1000 nats per token; worst at {bits} bits first",
        title_justify="left",
        box=SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("linear", no_wrap=True)
    for name in ("weights", *(f"{width} bits" for width in widths), f"fraction at {bits}"):
        table.add_column(name, justify="right")
    table.add_column("")
    for name, each, loss in rows[:top]:
        weights = f"{each.shape[0]} × {each.shape[1]}"
        bar = "█" * round(_BAR * loss / rows[0][2]) if rows[0][2] > 0 else ""
        losses = [_thousandths(each.loss_at(width)) for width in widths]
        table.add_row(Text(name), weights, *losses, f"{loss / total:.1%}", bar)
    sums = [sum(each.loss_at(width) or 0.0 for each in found.linears.values()) for width in widths]
    table.add_section()
    table.add_row(f"all {len(found.linears)} linears", "", *map(_thousandths, sums), "100.0%", "")
    measured = (
        f"Measured on {found.num_tokens:,} tokens of {found.text}, with the best group size for "
        f"each number of bits. The estimates rank linears; they do not predict perplexity."
    )
    lines = [measured]
    rows_of = found.embeddings
    if rows_of is not None:
        lines.append(
            f"Embedding and head in 8 bits: {_thousandths(rows_of.loss)}, "
            f"{in_bytes(rows_of.dense_bytes)} become {in_bytes(rows_of.num_bytes)}."
        )
    return Group(table, *map(Text, lines))


def sensitivity_document(found: Sensitivity, *, bits: int) -> dict[str, Any]:
    """The same as types that JSON can represent; losses in nats per token."""
    embeddings = found.embeddings
    return {
        "text": found.text,
        "tokens": found.num_tokens,
        "ranked_at_bits": bits,
        "linears": [_linear(name, each) for name, each, _ in ranked(found, bits)],
        "embeddings": (
            None
            if embeddings is None
            else {
                "names": list(embeddings.names),
                "bytes": embeddings.dense_bytes,
                "bytes_at_8_bits": embeddings.num_bytes,
                "loss_at_8_bits": embeddings.loss,
            }
        ),
    }


def draw_sensitivity(found: Sensitivity, path: Path, *, bits: int) -> None:
    """Plot the loss of every linear to a .png or .svg file: a map of blocks and kinds of linear.

    Raises:
        DataError: fewer than two linears of blocks have an estimate at these bits.
        MissingExtraError: matplotlib is not installed.
        SettingError: the file name does not end in .png or .svg, or the file cannot be written.
    """
    layers = [{"name": name, "loss": each.loss_at(bits)} for name, each in found.linears.items()]
    grid = layer_grid(layers, "loss", f"rise of the loss at {bits} bits, nats")
    if grid is None:
        raise DataError(f"fewer than 2 linears have an estimate at {bits} bits to plot")
    logarithmic = any(value > 0 for value in grid.cells.values())
    draw_plot_file(lambda axes: draw_layers(axes, grid, logarithmic), path, size=layers_size(grid))


def _linear(name: str, each: LinearSensitivity) -> Mapping[str, Any]:
    return {
        "name": name,
        "shape": list(each.shape),
        "grids": [
            {
                "bits": grid.bits,
                "group_size": grid.group_size,
                "bytes": grid.num_bytes,
                "loss": grid.loss,
            }
            for grid in each.grids
        ],
    }


def _bits_of(found: Sensitivity) -> list[int]:
    return sorted({grid.bits for each in found.linears.values() for grid in each.grids})


def _thousandths(loss: float | None) -> str:
    return _MISSING if loss is None else f"{1000 * loss:.3g}"
