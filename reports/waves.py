"""The waves of a run as rows and tables, from their records."""

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
from ..contexts.verdict import PREFIXES
from ..errors import DataError
from .units import in_time

Figure = Annotated[float, Field(ge=-1e30, le=1e30)]
"""A number that can be plotted."""

_MISSING = "–"
_FIGURES = tuple(
    f"{prefix}{name}"
    for prefix in PREFIXES.values()
    for name in ("perplexity", "perplexity_error", "rise", "rise_error")
)
_HEAD = ("wave", "removed", "healing", "parameters", "bytes", "perplexity", "rise", "time")


@dataclass(frozen=True)
class WaveRow:
    """One wave.

    Attributes:
        number: from 1; 0 is the original model.
        kept: False if the wave was reverted.
        share: fraction of the remaining parameters that the wave removed.
        healing: factor on the length of healing that the body of the chain states.
        left: parameters, bytes and flops after the wave, as fractions of the dense model's.
        sizes: the same as counts.
        perplexity, perplexity_error: on held-out text, with its standard error.
        rise, rise_error: relative to the dense model, with its standard error.
        elsewhere_perplexity, elsewhere_perplexity_error, elsewhere_rise, elsewhere_rise_error: the
            same on text from elsewhere.
        reason: why it was kept or reverted.

    Figures are None if the wave ended before it was evaluated; those on text from elsewhere also if
    there was none, as in records of earlier versions.
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
    elsewhere_perplexity: Figure | None = None
    elsewhere_perplexity_error: Figure | None = None
    elsewhere_rise: Figure | None = None
    elsewhere_rise_error: Figure | None = None

    @property
    def judged(self) -> bool:
        """Whether the wave was evaluated."""
        return self.perplexity is not None


_RECORDED = TypeAdapter(WaveRow)


def recorded_waves(steps: object) -> list[WaveRow]:
    """The rows of the steps that a file records.

    Raises:
        DataError: the steps are not of the form a run records.
    """
    try:
        if not isinstance(steps, list):
            raise TypeError("steps is not a list")
        return [_RECORDED.validate_python(asdict(row)) for row in wave_rows(steps)]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"the steps are not those of a run ({type(error).__name__}: {error}); give a folder "
            f"that birdbone saved, or the output of `birdbone run --json`"
        ) from None


def wave_rows(steps: Iterable[Step | Mapping[str, Any]]) -> list[WaveRow]:
    """A row for each wave among the steps of a history or of a ``birdbone.json`` file."""
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
        seconds=step["seconds"],
        reason=found["reason"],
        **{name: found.get(name) for name in _FIGURES},
    )


def waves_table(rows: Sequence[WaveRow]) -> RenderableType:
    """All waves within 80 columns, and the reasons why some were reverted.

    Each wave has a line for held-out text and, if there was any, one for text from elsewhere.
    """
    both = any(row.elsewhere_perplexity is not None for row in rows)
    below = "; below it, on text from elsewhere" if both else ""
    table = Table(
        title=f"Waves, evaluated in memory on held-out text{below}",
        title_justify="left",
        box=SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    for name in _HEAD:
        table.add_column(name, justify="left" if name == "wave" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in _cells(row)))
        if row.elsewhere_perplexity is not None:
            table.add_row(*("" for _ in _HEAD[:5]), *map(Text, _judged(row, "elsewhere")))
    reasons = [f"Wave {row.number} was reverted: {row.reason}" for row in rows if not row.kept]
    return Group(table, *map(Text, reasons))


def waves_markdown(rows: Sequence[WaveRow]) -> str:
    """The same as Markdown, with the reason in each row."""
    head = (*_HEAD, "perplexity, elsewhere", "rise, elsewhere", "")
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 2)}---|"]
    for row in rows:
        reason = row.reason if row.kept else f"reverted: {row.reason}"
        cells = (*_cells(row), *_judged(row, "elsewhere"), reason.replace("|", "/"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(row: WaveRow) -> tuple[str, ...]:
    return (
        f"{row.number}" if row.kept else f"{row.number} ×",
        f"{row.share:.1%}" if row.number else _MISSING,
        f"× {row.healing}" if row.number else _MISSING,
        *(f"{row.left[name]:.1%}" if name in row.left else _MISSING for name in _HEAD[3:5]),
        *_judged(row, "heldout"),
        in_time(row.seconds),
    )


def _judged(row: WaveRow, text: str) -> tuple[str, str]:
    """Perplexity and rise on one text."""
    prefix = PREFIXES[text]
    perplexity, rise, error = (
        getattr(row, f"{prefix}{name}") for name in ("perplexity", "rise", "rise_error")
    )
    return (
        _MISSING if perplexity is None else f"{perplexity:.3f}",
        _with_error(rise, error, "{:.1%}"),
    )


def _with_error(value: float | None, error: float | None, form: str) -> str:
    if value is None:
        return _MISSING
    return form.format(value) + ("" if error is None else f" ± {form.format(error)}")
