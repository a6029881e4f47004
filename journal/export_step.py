"""Exporting what a step added (scores, plans, masks) as plain JSON and safetensors files."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from safetensors.torch import save_file
from torch import Tensor

from ..checkpoints.user_paths import user_path
from ..errors import RunFolderError, SettingError
from ..models.blocks.linears import all_linears
from ..models.writing.publishing import private_folder, publish
from .journal import UNREADABLE, Journal, KeptOutcome, plain


def export_step(journal: Journal, kept: KeptOutcome, out: Path) -> list[str]:
    """Write what a step added to the context, except the model, to a new folder.

    Every context key becomes ``KEY.json`` and, if it holds tensors, ``KEY.safetensors``; in a file
    name, characters other than letters, digits and ``_.-~`` are percent-encoded. A step that added
    a plan also gets ``masks.safetensors``: by tensor name, True where a weight is not zero.

    Args:
        journal: the run folder.
        kept: the step.
        out: the folder to create.

    Returns:
        The names of the files, sorted.

    Raises:
        SettingError: the folder exists and is not empty.
        CheckpointError, RunFolderError: something is missing or damaged.
    """
    target = user_path(out).resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SettingError(f"output '{out}' exists already; give the path of a new folder")
    with private_folder(target, "export") as folder:
        _write_json(folder / "step.json", kept.step.as_dict())
        for key, tree in kept.added.items():
            if isinstance(tree, dict) and "checkpoint" in tree:
                continue
            document, tensors = _read(journal, key, tree)
            _write_json(folder / f"{_file_name(key)}.json", document)
            _write_tensors(folder / f"{_file_name(key)}.safetensors", tensors)
        if "plan" in kept.added:
            _write_tensors(folder / "masks.safetensors", masks(journal, kept))
        names = sorted(path.name for path in folder.iterdir())
        publish(folder, target)
    return names


def _file_name(key: str) -> str:
    """A name inside the folder for any context key, apart from the names of our own files."""
    name = quote(key, safe="")
    return f"{name}-key" if name in ("step", "masks") else name


def _read(journal: Journal, key: str, tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return the JSON document of one context key, and its tensors by path."""
    entries: dict[str, Any] = {}
    try:
        for path, entry in _tensors(tree, ""):
            entries[_unused(path or key, entries)] = entry
        document = plain(tree)
    except (*UNREADABLE, StopIteration) as error:
        raise RunFolderError(
            f"what the step added as '{key}' is damaged ({error!r}); delete its outcome and run "
            f"the same command again to recreate it"
        ) from error
    return document, {name: journal.objects.tensor(entry) for name, entry in entries.items()}


def _unused(path: str, taken: Container[str]) -> str:
    """The path, numbered if another tensor has it: keys of mappings may hold dots."""
    numbered = (f"{path}~{number}" for number in count(2))
    return next(each for each in chain([path], numbered) if each not in taken)


def masks(journal: Journal, kept: KeptOutcome) -> dict[str, Tensor]:
    """Return, by tensor name, which weights of the linear layers are not zero after a step."""
    checkpoint = journal.checkpoint(kept)
    names = sorted({linear.tensor for linear in all_linears(checkpoint)})
    return {name: checkpoint.tensors[name] != 0 for name in names}


def _tensors(tree: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the entry of every tensor in a tree, with its path."""
    if isinstance(tree, list):
        for place, part in enumerate(tree):
            yield from _tensors(part, f"{where}.{place}")
    elif isinstance(tree, dict) and "tensor" in tree:
        yield where.removeprefix("."), tree["tensor"]
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
