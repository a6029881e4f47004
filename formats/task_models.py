"""Saved models evaluated on tasks of lm-eval, each in the runtime of its files.

Hugging Face folders run in transformers and GGUF files in llama.cpp. The original of a GGUF file's
conversion runs in transformers like the model made from it, with the values that were loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch

from ..checkpoints import Checkpoint
from ..checkpoints.durable import file_hash
from ..models.blocks.announcing import Announce
from ..models.evaluation.record import RECORD
from ..models.evaluation.task_evaluation import (
    PROGRAM,
    Found,
    Keep,
    Task,
    TaskChoice,
    TaskRun,
    evaluate_checkpoint,
    evaluate_folder,
    evaluate_with,
)
from ..models.reading.gguf_header import read_header
from ..models.reading.sources import Source
from ..models.writing.publishing import PROVENANCE
from .llama_cpp import require_llama_cpp

_PROGRAM = Path(__file__).with_name("run_tasks_gguf.py")
_READ = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py")
_RECORDS = (PROVENANCE, RECORD)


class KeptScores(Protocol):
    """Where results of tasks are kept between calls."""

    def find(self, key: str) -> Found | None:
        """The result kept under a key; None if there is none."""

    def keep(self, key: str, found: Found) -> None:
        """Keep a result."""


@dataclass(frozen=True)
class TaskModel:
    """A model to evaluate.

    Attributes:
        name: the name to report.
        source: where it is.
        run: how it is run.
        checkpoint: the model as it was loaded, to be written to a folder and run in transformers
            instead of the files of ``source``; None to run those.
    """

    name: str
    source: Source
    run: TaskRun
    checkpoint: Checkpoint | None = None

    @property
    def in_llama_cpp(self) -> bool:
        """Whether llama.cpp runs it."""
        return self.source.gguf is not None and self.checkpoint is None

    def identity(self) -> dict[str, Any]:
        """What its scores depend on: content of its files, runtime and versions."""
        runtime = "xllamacpp" if self.in_llama_cpp else "transformers"
        versions = {name: metadata.version(name) for name in (runtime, "torch")}
        return {
            "files": self._content(),
            "run": vars(self.run),
            "program": file_hash(PROGRAM),
            "versions": versions,
        }

    def _content(self) -> Any:
        if self.checkpoint is not None:
            return self.checkpoint.id
        paths = self.source.gguf_paths or [
            path
            for pattern in _READ
            for path in sorted(self.source.folder.glob(pattern))
            if path.name not in _RECORDS
        ]
        return {path.name: file_hash(path) for path in paths}


def check_runtime(model: TaskModel) -> None:
    """Check that what runs a model is installed.

    Raises:
        MissingExtraError: it is not; the message names the extra.
    """
    if model.in_llama_cpp:
        require_llama_cpp()


async def evaluate_model(
    model: TaskModel,
    choice: TaskChoice,
    tasks: Sequence[Task],
    lm_eval: str,
    kept: KeptScores,
    announce: Announce,
) -> list[Found]:
    """Results of one model on all tasks; those kept are not computed again.

    Args:
        lm_eval: version of lm-eval.

    Raises:
        ProofError: the model cannot be opened, or lm-eval fails on it.
        ResourceError: the disk has no room for the original as a folder.
    """
    identity = model.identity()
    keys = {task.name: _key(identity, choice, task, lm_eval) for task in tasks}
    found = {name: result for name, key in keys.items() if (result := kept.find(key)) is not None}
    done = tuple(found)

    def keep(result: Found) -> None:
        found[result["task"]] = result
        kept.keep(keys[result["task"]], result)

    if len(done) < len(keys):
        await _evaluate(model, choice, done, keep, announce)
    return [found[task.name] for task in tasks]


def _key(identity: Mapping[str, Any], choice: TaskChoice, task: Task, lm_eval: str) -> str:
    made_from = [identity, task.definition, task.name, choice.limit, choice.seed, lm_eval]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


async def _evaluate(
    model: TaskModel, choice: TaskChoice, done: Collection[str], keep: Keep, announce: Announce
) -> None:
    if model.in_llama_cpp:
        await _evaluate_gguf(model, choice, done, keep, announce)
    elif model.checkpoint is None:
        await evaluate_folder(model.source.folder, choice, done, model.run, keep, announce)
    else:
        await evaluate_checkpoint(model.checkpoint, choice, done, model.run, keep, announce)


async def _evaluate_gguf(
    model: TaskModel, choice: TaskChoice, done: Collection[str], keep: Keep, announce: Announce
) -> None:
    paths = model.source.gguf_paths
    vocabulary = len(read_header(model.source).fields["tokenizer.ggml.tokens"].data)
    request = {
        "folder": str(model.source.folder),
        "file": str(paths[0]),
        "parts": [str(path) for path in paths],
        "vocabulary": vocabulary,
        "threads": torch.get_num_threads(),
    }
    opener = "lm-eval in llama.cpp"
    await evaluate_with(_PROGRAM, request, choice, done, model.run, keep, announce, opener=opener)
