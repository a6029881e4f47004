"""The model card of a saved folder: ``README.md``, for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..checkpoints import Checkpoint
from ..contexts.steps import Step
from ..models.codecs.peft_adapter import has_adapter
from .provenance import without_paths
from .result import GRID_REMARK, SHARE_WORTH_A_REMARK, is_on_a_grid, opened_by
from .source_contents import as_in_gguf, contents_markdown
from .waves import wave_rows, waves_markdown

Figures = Mapping[str, Mapping[str, float]]

_ROWS = (
    ("weight_bytes", "weight files, bytes", "{:,.0f}"),
    ("parameters", "parameters", "{:,.0f}"),
    ("nonzero", "of which not zero", "{:,.0f}"),
    ("perplexity", "perplexity", "{:.3f}"),
    ("mean_kl", "mean KL to dense, nats a token", "{:.4f}"),
    ("agreement", "top-1 agreement with dense", "{:.1%}"),
    ("prefill_tokens_per_second", "prefill, tokens/s", "{:,.1f}"),
    ("decode_tokens_per_second", "decode, tokens/s", "{:,.1f}"),
    ("peak_bytes", "peak memory of the process, bytes", "{:,.0f}"),
)
_INTRODUCTION = (
    "A lighter form of {source}, made by bird-bone. What was done and measured is also in "
    "`birdbone.json`, for programs."
)
_LOADING = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```"""
_LOADING_GGUF = """```bash
llama-cli -m path/to/this/folder/model.gguf
```"""
_ADAPTER = """## The adapter

`adapter/` holds a low-rank correction of what quantisation left. The figures above are without it.
PEFT puts it on:

```python
from peft import PeftModel

model = PeftModel.from_pretrained(model, "path/to/this/folder/adapter")
```"""
_NEEDS = {
    "gguf": "llama.cpp runs it, and whatever is built on that; transformers reads it too, as the "
    'values its codes stand for, with `from_pretrained(folder, gguf_file="model.gguf")`.',
    "dense": "Plain transformers loads it; no code of bird-bone is needed.",
    "packed": "Plain transformers loads it with `compressed-tensors` installed, and unpacks it at "
    "the first forward: the codes make the files smaller, not the computation faster.",
    "nf4": "Plain transformers loads it with `bitsandbytes` installed.",
    "llm.int8": "Plain transformers loads it with `bitsandbytes` installed.",
}


def model_card(
    *,
    name: str,
    checkpoint: Checkpoint,
    weight_format: str,
    history: Sequence[Step],
    figures: Figures,
    measured_on: Mapping[str, str],
) -> str:
    """The card's text, Markdown with the hub's metadata on top.

    Args:
        name: of the folder.
        weight_format: how weights are stored, see `weight_format` of
            `birdbone.models.writing.folder`, or gguf.
        history: the steps that led here, oldest first.
    """
    source = checkpoint.source or "an unnamed model"
    in_gguf = weight_format == "gguf"
    besides = contents_markdown(as_in_gguf(checkpoint) if in_gguf else checkpoint)
    loading = _LOADING_GGUF if weight_format == "gguf" else _LOADING
    parts = [
        _metadata(checkpoint.source),
        f"# {name}\n\n{_INTRODUCTION.format(source=source)}",
        f"## What was done\n\n{_steps(history)}{_waves(history)}",
        f"## What it costs\n\n{_table(figures)}\n\n{_where(measured_on)}{_grid_remark(source)}",
        f"## Zeros\n\n{_about_zeros(figures, weight_format)}",
        f"## Loading\n\n{loading}\n\n{_NEEDS[weight_format]}",
        *([f"## What the source held besides\n\n{besides}"] if besides else []),
        *([_ADAPTER] if has_adapter(checkpoint) and weight_format != "gguf" else []),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(source: str) -> str:
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    if source.count("/") == 1 and not source.endswith(".gguf"):
        lines.append(f"base_model: {json.dumps(source)}")
    return "\n".join(["---", *lines, "tags:", "- bird-bone", "---"])


def _steps(history: Sequence[Step]) -> str:
    outer = [step for step in history if step.within is None]
    if not outer:
        return "Nothing was recorded."
    return "\n".join(f"{place}. {_step(step)}" for place, step in enumerate(outer, 1))


def _waves(history: Sequence[Step]) -> str:
    rows = wave_rows(history)
    if not rows:
        return ""
    return (
        f"\n\nWave by wave, as judged on held-out text in memory; shares are of the dense model's, "
        f"parameters without the zeros of masks:\n\n{waves_markdown(rows)}"
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


def _where(measured_on: Mapping[str, str]) -> str:
    listed = "; ".join(f"{name}: {value}" for name, value in measured_on.items())
    opener = opened_by(measured_on)
    return (
        f"Measured on the saved folders, each opened by {opener} in a fresh process. "
        f"{listed}. After ± stands one standard error."
    )


def _grid_remark(source: str) -> str:
    return f" {GRID_REMARK}" if is_on_a_grid(source) else ""


def _about_zeros(figures: Figures, weight_format: str) -> str:
    light = figures["light"]
    share = 1 - light["nonzero"] / light["parameters"]
    if share < SHARE_WORTH_A_REMARK:
        return (
            f"{share:.1%} of the parameters are zero, so there is no mask; what was removed is "
            f"gone from the tensors, and what is smaller or faster for it shows in the table."
        )
    rounded = "" if weight_format == "dense" else " (rounding to few codes makes zeros too)"
    return (
        f"{share:.1%} of the parameters are zero{rounded}. Zeros inside a weight matrix are a "
        f"mask: they are stored and multiplied like any other value, so by themselves they change "
        f"neither the bytes on disk nor the speed. What is smaller or faster here shows in the "
        f"table."
    )
