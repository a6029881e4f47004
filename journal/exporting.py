"""What one step left, as plain JSON and safetensors for other programs: scores, plans, masks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..checkpoints.user_paths import user_path
from ..errors import RunFolderError, SettingError
from ..models.blocks.linears import all_linears
from ..models.writing.publishing import private_folder, publish
from .journal import UNREADABLE, Journal, Kept, plain


def export(journal: Journal, kept: Kept, out: Path) -> list[str]:
    """Write what a step added to the context, its model excepted, into a new folder.

    Every key becomes ``KEY.json`` and, where it holds tensors, ``KEY.safetensors``. A step that
    added a plan gives ``masks.safetensors`` too: by tensor name, true where a weight is not zero.

    Returns:
        The names of the files.

    Raises:
        SettingError: the folder exists and is not empty.
        CheckpointError, RunFolderError: something is missing or damaged.
    """
    target = user_path(out).resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SettingError(f"output '{out}' exists already; give a new folder")
    with private_folder(target, "export") as folder:
        _write_json(folder / "step.json", kept.step.as_dict())
        for key, tree in kept.added.items():
            if isinstance(tree, dict) and "checkpoint" in tree:
                continue
            document, tensors = _read(journal, key, tree)
            _write_json(folder / f"{key}.json", document)
            _write_tensors(folder / f"{key}.safetensors", tensors)
        if "plan" in kept.added:
            _write_tensors(folder / "masks.safetensors", masks(journal, kept))
        names = sorted(path.name for path in folder.iterdir())
        publish(folder, target)
    return names


def _read(journal: Journal, key: str, tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """What stands under one key, for people and programs, and its tensors by the path to each."""
    try:
        entries = dict(_tensors(tree, ""))
        document = plain(tree)
    except (*UNREADABLE, StopIteration) as error:
        raise RunFolderError(
            f"what the step left under '{key}' is damaged ({error!r}); delete its outcome, and the "
            f"same run makes it again"
        ) from error
    return document, {name: journal.objects.tensor(entry) for name, entry in entries.items()}


def masks(journal: Journal, kept: Kept) -> dict[str, Tensor]:
    """Which weights of every linear's tensor a step left other than zero, by tensor name."""
    checkpoint = journal.checkpoint(kept)
    names = sorted({linear.tensor for linear in all_linears(checkpoint)})
    return {name: checkpoint.tensors[name] != 0 for name in names}


def _tensors(tree: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Entries of all tensors of a tree, each by the path to it."""
    if isinstance(tree, list):
        for place, part in enumerate(tree):
            yield from _tensors(part, f"{where}.{place}")
    elif isinstance(tree, dict) and "tensor" in tree:
        yield where.lstrip("."), tree["tensor"]
    elif isinstance(tree, dict) and "fields" in tree:
        for name, part in tree["fields"].items():
            yield from _tensors(part, f"{where}.{name}")
    elif isinstance(tree, dict) and "map" in tree:
        for name, part in tree["map"]:
            yield from _tensors(part, f"{where}.{name}")
    elif isinstance(tree, dict) and "tuple" in tree:
        yield from _tensors(tree["tuple"], where)


def _write_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    if tensors:
        save_file(tensors, path)
