"""What W&B receives of a model: its waves and candidates, its report, its files as an artifact."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contexts.saved import Saved
from ..contexts.steps import Step

if TYPE_CHECKING:
    import wandb

_TRIED = ("wave", "candidate")
_COLUMNS = (
    "kept",
    "bytes",
    "parameters",
    "perplexity",
    "rise",
    "rise_error",
    "elsewhere_perplexity",
    "elsewhere_rise",
    "elsewhere_rise_error",
    "reason",
)
_RECORDS = ("README.md", "birdbone.json", "proof.json", "report.html", "bench.json")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def log_tried(run: wandb.Run, history: Sequence[Step], known: int) -> int:
    """Log all waves and candidates of a history as one table, if there are more than ``known``.

    Returns how many there are.
    """
    tried = [step for step in history if step.link in _TRIED]
    if len(tried) <= known or history[-1].link in _TRIED:
        return known
    import wandb

    rows = [[_name(step), *_cells(step), step.cost.seconds] for step in tried]
    run.log({"tried": wandb.Table(columns=["name", *_COLUMNS, "seconds"], data=rows)})
    return len(tried)


def _name(step: Step) -> str:
    return str(step.metrics.get("candidate") or f"wave {step.metrics.get('wave')}")


def _cells(step: Step) -> list[Any]:
    found = dict(step.metrics)
    found.setdefault("bytes", found.get("predicted_bytes"))
    return [found.get(column) for column in _COLUMNS]


def log_model(run: wandb.Run, saved: object, source: str, *, files: bool) -> None:
    """Log the report of a saved model as a panel, and its records as an artifact.

    Args:
        source: name of the original model, which becomes the artifact's source.
        files: add all files of the model, not its records alone.
    """
    if not isinstance(saved, Saved):
        return
    import wandb

    page = saved.records / "report.html"
    if page.is_file():
        run.log({"report": wandb.Html(page.read_text(encoding="utf-8"), inject=False)})
    light = saved.figures.get("light", {})
    metadata = {"source": source, **light}
    artifact = wandb.Artifact(_artifact_name(saved.path.name), type="model", metadata=metadata)
    for name in _RECORDS:
        if (saved.records / name).is_file():
            artifact.add_file(str(saved.records / name), name=name)
    if files:
        _add_files(artifact, saved)
    if source and not run.offline:  # W&B records what a run used only while it is online
        run.use_artifact(_original(source))
    run.log_artifact(artifact)


def _add_files(artifact: wandb.Artifact, saved: Saved) -> None:
    if saved.path.is_file():
        artifact.add_file(str(saved.path))
        return
    for path in sorted(saved.path.rglob("*")):
        name = path.relative_to(saved.path).as_posix()
        if path.is_file() and name not in _RECORDS:
            artifact.add_file(str(path), name=name)


def _original(source: str) -> wandb.Artifact:
    """The original model by reference: its page on the hub, or its name."""
    import wandb

    artifact = wandb.Artifact(_artifact_name(source), type="model", metadata={"source": source})
    on_hub = _HUB_ID.fullmatch(source) and not Path(source).exists()
    if on_hub:
        artifact.add_reference(f"https://huggingface.co/{source}", checksum=False)
    return artifact


def _artifact_name(name: str) -> str:
    """The name with the characters that W&B allows."""
    return re.sub(r"[^\w.-]", "-", name)
