"""The disk space of a run folder, and deleting what no step refers to."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.manifest import decode_manifest
from ..errors import RunFolderError
from .folder import RunFolder
from .journal import UNREADABLE, Journal


@dataclass(frozen=True)
class Collected:
    """What was deleted, or would be.

    Attributes:
        steps: numbers of the deleted steps.
        files: number of deleted files.
        freed_bytes, kept_bytes: bytes on disk of what is deleted and of what remains.
    """

    steps: tuple[int, ...]
    files: int
    freed_bytes: int
    kept_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-compatible."""
        return asdict(self)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder and its subfolders."""
    return sum(_size(path) for path in folder.rglob("*"))


def _size(path: Path) -> int:
    """Return the size of a file; 0 for a folder, or a file deleted in the meantime."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def collect(folder: RunFolder, *, superseded: bool = False, dry: bool = False) -> Collected:
    """Delete objects no step refers to, files left by a crash, and abandoned work in progress.

    Args:
        folder: an open run folder; its lock keeps other processes from writing.
        superseded: also delete steps that the last run did not use.
        dry: only report what would be deleted.

    Raises:
        RunFolderError: a step is damaged, so it is unknown what it refers to; or ``superseded``,
            and no step is known to be of the last run, so that every one would be deleted.
    """
    last, steps = set(folder.last()), folder.steps()
    if superseded and steps and not any(each.key in last for each in steps):
        raise RunFolderError(
            f"none of the {len(steps)} steps of '{folder.path}' is known to be of the last run, so "
            f"all of them would be deleted; run the same command again and then collect"
        )
    dropped = [each for each in steps if superseded and each.key not in last]
    deleted = [folder.outcome_path(each.key) for each in dropped]
    referred = set(_referred(folder, {each.key for each in dropped}))
    for kind in ("objects/*/*", "manifests/*", "files/*", "outcomes/*.part", "*.part"):
        deleted += [path for path in folder.path.glob(kind) if path not in referred]
    in_progress = folder.in_progress()
    for place in (folder.path / "unfinished").glob("*"):
        if place.name not in in_progress:
            deleted += [path for path in place.rglob("*") if path.is_file()]
    freed = sum(map(_size, deleted))
    found = Collected(
        steps=tuple(each.number for each in dropped),
        files=len(deleted),
        freed_bytes=freed,
        kept_bytes=folder_bytes(folder.path) - freed,
    )
    if not dry:
        for path in deleted:  # outcomes first, so that no remaining file refers to a deleted one
            path.unlink(missing_ok=True)
        _sweep(folder.path, in_progress)
    return found


def _sweep(path: Path, in_progress: Iterable[str]) -> None:
    for place in (path / "unfinished").glob("*"):
        if place.name not in in_progress:
            shutil.rmtree(place, ignore_errors=True)
    for group in (path / "objects").glob("*"):
        if not any(group.iterdir()):
            group.rmdir()


def _referred(journal: Journal, dropped: set[str]) -> Iterator[Path]:
    """Yield every file that a remaining outcome refers to."""
    for kept in journal.steps():
        if kept.key in dropped:
            continue
        for tree in _inside([kept.steps, *kept.added.values()]):
            if "tensor" in tree:
                yield _object(journal, tree["tensor"]["digest"])
            elif "checkpoint" in tree:
                yield from _of_checkpoint(journal, tree["checkpoint"])


def _inside(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every JSON object in a tree, including the tree itself."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from _inside(part)


def _of_checkpoint(journal: Journal, identity: str) -> Iterator[Path]:
    path = journal.path / "manifests" / f"{identity}.json"
    yield path
    try:
        manifest = decode_manifest(path.read_bytes())
        for part in ("tensors", "unused"):
            for entry in manifest.get(part, {}).values():
                yield _object(journal, entry["digest"])
        for key in manifest["files"].values():
            yield journal.path / "files" / key
    except FileNotFoundError:
        return  # the step is incomplete already; running it again recreates the manifest
    except UNREADABLE as error:
        raise RunFolderError(
            f"{path} is damaged ({error}), so it is unknown what it refers to; run the same "
            f"command again, which recreates it, and then collect"
        ) from error


def _object(journal: Journal, digest: str) -> Path:
    return journal.path / "objects" / digest[:2] / f"{digest}.safetensors"
