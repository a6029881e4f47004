"""The model card of a saved model: ``README.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..checkpoints import Checkpoint
from ..contexts.steps import Step
from ..contexts.task_scores import Recovery
from ..models.codecs.peft_adapter import has_adapter
from .both_texts import NOT_USED, TEXT_ROWS, text_remarks
from .candidates import candidate_rows, candidates_markdown
from .card_metadata import card_metadata
from .card_snippets import usage_sections
from .provenance import without_paths
from .result import GRID_REMARK, SHARE_WORTH_A_REMARK, Figures, is_on_a_grid, opened_by
from .source_contents import as_in_gguf, contents_markdown
from .task_table import REMARK, recovery_markdown
from .waves import wave_rows, waves_markdown

_ROWS = (
    ("weight_bytes", "weight files, bytes", "{:,.0f}"),
    ("parameters", "parameters", "{:,.0f}"),
    ("nonzero", "of which not zero", "{:,.0f}"),
    *TEXT_ROWS,
    ("prefill_tokens_per_second", "prefill, tokens/s", "{:,.1f}"),
    ("decode_tokens_per_second", "decode, tokens/s", "{:,.1f}"),
    ("peak_bytes", "peak memory of the process, bytes", "{:,.0f}"),
)
_INTRODUCTION = (
    "A compressed version of {source}, made with bird-bone. `birdbone.json` has the same "
    "information for programs."
)


def model_card(
    *,
    name: str,
    checkpoint: Checkpoint,
    weight_format: str,
    history: Sequence[Step],
    figures: Figures,
    measured_on: Mapping[str, str],
    tasks: Sequence[Recovery] = (),
) -> str:
    """The text of the card: Markdown with the metadata of the hub at the top.

    Args:
        name: of the folder, or of the single GGUF file.
        weight_format: how weights are stored, see `weight_format` of
            `birdbone.models.writing.folder`, or gguf.
        history: the steps that made the model, oldest first.
        tasks: its scores on tasks of lm-eval; empty if it was evaluated on none.
    """
    source = checkpoint.source or "an unnamed model"
    in_gguf = weight_format == "gguf"
    besides = contents_markdown(as_in_gguf(checkpoint) if in_gguf else checkpoint)
    file = name if name.endswith(".gguf") else "model.gguf"
    corrected = has_adapter(checkpoint) and not in_gguf
    measured = f"{_table(figures)}\n\n{_where(measured_on)}{_remarks(source, figures)}"
    parts = [
        card_metadata(
            name=name,
            checkpoint=checkpoint,
            history=history,
            figures=figures,
            measured_on=measured_on,
            tasks=tasks,
        ),
        f"# {name}\n\n{_INTRODUCTION.format(source=source)}",
        f"## How it was made\n\n{_steps(history)}{_waves(history)}{_candidates(history)}",
        f"## Evaluation\n\n{measured}{_tasks(tasks)}",
        f"## Zeros\n\n{_about_zeros(figures, weight_format)}",
        *usage_sections(weight_format, file=file, corrected=corrected),
        *([f"## Other contents of the source\n\n{besides}"] if besides else []),
    ]
    return "\n\n".join(parts) + "\n"


def _steps(history: Sequence[Step]) -> str:
    outer = [step for step in history if step.within is None]
    if not outer:
        return "No steps were recorded."
    return "\n".join(f"{place}. {_step(step)}" for place, step in enumerate(outer, 1))


def _waves(history: Sequence[Step]) -> str:
    rows = wave_rows(history)
    if not rows:
        return ""
    return (
        f"\n\nThe waves, evaluated in memory on held-out text and text from elsewhere. Sizes are "
        f"relative to the dense model; parameters do not include the zeros of masks:\n\n"
        f"{waves_markdown(rows)}"
    )


def _candidates(history: Sequence[Step]) -> str:
    rows = candidate_rows(history)
    if not rows:
        return ""
    return (
        f"\n\nThe candidates within the budget, judged in memory on held-out text and on text from "
        f"elsewhere:\n\n{candidates_markdown(rows)}"
    )


def _step(step: Step) -> str:
    settings: Mapping[str, Any] = without_paths(step.as_dict()["settings"])
    written = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return f"`{step.link}({written})`, {step.cost.seconds:.1f} s"


def _table(figures: Figures) -> str:
    columns = [name for name in ("dense", "light") if name in figures]
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for key, label, form in _ROWS:
        cells = [_cell(figures[name], key, form) for name in columns]
        if any(cells):
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: Mapping[str, float], key: str, form: str) -> str:
    if key not in found:
        return ""
    text = form.format(found[key])
    error = found.get(f"{key}_error")
    return text if error is None else f"{text} ± {form.format(error)}"


def _tasks(tasks: Sequence[Recovery]) -> str:
    if not tasks:
        return ""
    return (
        f"\n\nTasks of lm-eval, evaluated before saving, in a fresh process:\n\n"
        f"{recovery_markdown(tasks)}\n\n{REMARK}"
    )


def _where(measured_on: Mapping[str, str]) -> str:
    listed = "; ".join(f"{name.replace('_', ' ')}: {each}" for name, each in measured_on.items())
    opener = opened_by(measured_on)
    return (
        f"Measured on the saved model, opened by {opener} in a fresh process. {listed}. "
        f"± is one standard error.{_elsewhere(measured_on)}"
    )


def _elsewhere(measured_on: Mapping[str, str]) -> str:
    return f" {NOT_USED}" if "elsewhere" in measured_on else ""


def _remarks(source: str, figures: Figures) -> str:
    remarks = [*text_remarks(figures), *([GRID_REMARK] if is_on_a_grid(source) else [])]
    return "".join(f" {each}" for each in remarks)


def _about_zeros(figures: Figures, weight_format: str) -> str:
    light = figures["light"]
    fraction = 1 - light["nonzero"] / light["parameters"]
    if fraction < SHARE_WORTH_A_REMARK:
        return (
            f"{fraction:.1%} of the parameters are zero, so there is no mask. Removed parameters "
            f"are gone from the tensors; the table shows what that saves."
        )
    rounded = "" if weight_format == "dense" else " (rounding to few bits makes zeros too)"
    return (
        f"{fraction:.1%} of the parameters are zero{rounded}. Zeros inside a weight matrix are "
        f"stored and multiplied like other values, so they change neither the size on disk nor the "
        f"speed."
    )
