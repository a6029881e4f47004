"""The provenance record of a saved model: ``birdbone.json``.

It holds the steps, source, texts, versions, measurements and a checksum of every file, and no paths
of the machine it was made on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from .. import __version__
from ..checkpoints import Checkpoint
from ..checkpoints.durable import file_hash
from ..contexts.steps import Step
from ..contexts.task_scores import Recovery
from ..models.writing.hash_chain import hash_chain
from ..models.writing.publishing import PROVENANCE, path_of
from .both_texts import text_remarks
from .layer_records import layer_records
from .source_contents import as_in_gguf, contents_record

_LIBRARIES = (
    "torch",
    "transformers",
    "safetensors",
    "accelerate",
    "compressed-tensors",
    "bitsandbytes",
    "modulink-py",
)
_VERSION = 1


def provenance(
    *,
    checkpoint: Checkpoint,
    dense: Checkpoint,
    history: Sequence[Step],
    texts: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, Mapping[str, float]],
    measured_on: Mapping[str, str],
    files: Mapping[str, Path],
    refused: str | None = None,
    tasks: Sequence[Recovery] = (),
    examples: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record of one saved model, as types that JSON can represent.

    Args:
        history: the steps so far, oldest first.
        texts: for each part of the text its name, digest, number of windows and length.
        files: every file of the folder by its name there; sizes and hashes are recorded.
        refused: why the model was not published, if it was refused.
        tasks: scores on tasks of lm-eval; empty if it was evaluated on none.
        examples: further entries, of continuations and of the worst windows.
    """
    in_gguf = any(name.endswith(".gguf") for name in files)
    steps = [without_paths(step.as_dict()) for step in history]
    weighed = {name: _weighed(path) for name, path in sorted(files.items())}
    return {
        "birdbone": __version__,
        **({} if refused is None else {"refused": refused}),
        "format": _VERSION,
        "source": checkpoint.source,
        "checkpoint": checkpoint.id,
        "dense": dense.id,
        **contents_record(as_in_gguf(checkpoint) if in_gguf else checkpoint),
        "steps": steps,
        "layers": layer_records(checkpoint, dense, history),
        "texts": without_paths(texts),
        "figures": {name: dict(found) for name, found in figures.items()},
        **({"tasks": [each.as_dict() for each in tasks]} if tasks else {}),
        "remarks": text_remarks(figures),
        "measured_on": dict(measured_on),
        **(examples or {}),
        "versions": {name: library_version(name) for name in _LIBRARIES},
        "files": weighed,
        "chain": hash_chain(dense.id, steps, weighed),
    }


def stands(
    saved: Path, checkpoint: Checkpoint, steps: Sequence[tuple[str, Mapping[str, Any]]]
) -> bool:
    """Whether a saved model is still what its record says: this model, these steps, every file.

    Args:
        saved: its folder, or its single GGUF file.
        steps: links with their settings, as recorded.
    """
    try:
        record = json.loads(path_of(saved, PROVENANCE).read_text(encoding="utf-8"))
        told = [(step["link"], step["settings"]) for step in record["steps"]]
        files = {name: _weighed(path_of(saved, name)) for name in record["files"]}
        return (record["checkpoint"], told, record["files"]) == (checkpoint.id, [*steps], files)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def library_version(name: str) -> str:
    """The installed version of a distribution, or ``not installed``."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def without_paths(value: Any) -> Any:
    """The value with absolute paths reduced to their last component."""
    if isinstance(value, str):
        return _last_part(value)
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    return value


def _last_part(text: str) -> str:
    if text.startswith("~") or PurePosixPath(text).is_absolute():
        return PurePosixPath(text).name
    return PureWindowsPath(text).name if PureWindowsPath(text).is_absolute() else text


def _weighed(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_hash(path)}
