"""The waves of a run: a row for each, kept or reverted, from the records they left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..contexts.steps import Step
from ..errors import DataError

Figure = Annotated[float, Field(ge=-1e30, le=1e30)]
"""A number that can be drawn."""

_MISSING = "–"
_HEAD = ("wave", "took", "healing", "parameters", "bytes", "perplexity", "rise", "time")


@dataclass(frozen=True)
class WaveRow:
    """One wave.

    Attributes:
        number: from 1; 0 is the model as it came.
        kept: whether it held.
        share: what it took of what remained.
        healing: how many times as long as its body says it healed.
        left: share of the dense model's that its model has: of parameters, bytes and flops.
        sizes: the same as counts.
        perplexity, perplexity_error, rise, rise_error: on held-out text; the rise is over dense.
        reason: why it was kept or reverted.

    Figures are None where the wave ended before it was judged.
    """

    number: int
    kept: bool
    share: Figure
    healing: int
    left: Mapping[str, Figure]
    sizes: Mapping[str, Figure]
    perplexity: Figure | None
    perplexity_error: Figure | None
    rise: Figure | None
    rise_error: Figure | None
    seconds: Figure
    reason: str

    @property
    def judged(self) -> bool:
        """Whether it has figures."""
        return self.perplexity is not None


_RECORDED = TypeAdapter(WaveRow)


def recorded_waves(steps: object) -> list[WaveRow]:
    """Rows of what a file says were the steps of a run.

    Raises:
        DataError: they are not what a run records.
    """
    try:
        if not isinstance(steps, list):
            raise TypeError("its steps are no list")
        return [_RECORDED.validate_python(asdict(row)) for row in wave_rows(steps)]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"no waves as a run records them ({type(error).__name__}: {error}); give a folder that "
            f"birdbone saved, or what `birdbone run --json` printed"
        ) from None


def wave_rows(steps: Iterable[Step | Mapping[str, Any]]) -> list[WaveRow]:
    """Every wave among the steps of a history, or of what ``birdbone.json`` keeps of one."""
    plain = [step.as_dict() if isinstance(step, Step) else step for step in steps]
    return [_row(step) for step in plain if step["link"] == "wave"]


def _row(step: Mapping[str, Any]) -> WaveRow:
    found: Mapping[str, Any] = step["metrics"]
    measures = [name.removesuffix("_left") for name in found if name.endswith("_left")]
    return WaveRow(
        number=found["wave"],
        kept=found["kept"],
        share=step["settings"]["share"],
        healing=step["settings"]["healing"],
        left={name: found[f"{name}_left"] for name in measures},
        sizes={name: found[name] for name in measures},
        perplexity=found.get("perplexity"),
        perplexity_error=found.get("perplexity_error"),
        rise=found.get("rise"),
        rise_error=found.get("rise_error"),
        seconds=step["seconds"],
        reason=found["reason"],
    )


def waves_table(rows: Sequence[WaveRow]) -> RenderableType:
    """All waves for a person to read, within 80 columns; below, why some were reverted."""
    table = Table(
        title="Waves, judged on held-out text in memory",
        title_justify="left",
        box=SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    for name in _HEAD:
        table.add_column(name, justify="left" if name == "wave" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in _cells(row)))
    reasons = [f"Wave {row.number} was reverted: {row.reason}" for row in rows if not row.kept]
    return Group(table, *map(Text, reasons))


def waves_markdown(rows: Sequence[WaveRow]) -> str:
    """The same as Markdown, every reason in its row."""
    head = (*_HEAD, "")
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(_HEAD) - 1)}---|"]
    for row in rows:
        reason = row.reason if row.kept else f"reverted: {row.reason}"
        lines.append(f"| {' | '.join((*_cells(row), reason.replace('|', '/')))} |")
    return "\n".join(lines)


def _cells(row: WaveRow) -> tuple[str, ...]:
    return (
        f"{row.number}" if row.kept else f"{row.number} ×",
        f"{row.share:.1%}" if row.number else _MISSING,
        f"× {row.healing}" if row.number else _MISSING,
        *(f"{row.left[name]:.1%}" if name in row.left else _MISSING for name in _HEAD[3:5]),
        _MISSING if row.perplexity is None else f"{row.perplexity:.3f}",
        _with_error(row.rise, row.rise_error, "{:.1%}"),
        f"{row.seconds / 60:.2f} min",
    )


def _with_error(value: float | None, error: float | None, form: str) -> str:
    if value is None:
        return _MISSING
    return form.format(value) + ("" if error is None else f" ± {form.format(error)}")
