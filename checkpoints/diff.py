"""The difference between two checkpoints, from digests; no tensor is compared value by value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .checkpoint import Checkpoint


@dataclass(frozen=True)
class Diff:
    """What changed from the first checkpoint to the second. All names are sorted.

    Attributes:
        added, removed, changed: tensor names, those of `Checkpoint.unused` included.
        config, files: config keys and file names that were added, removed or changed.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    config: tuple[str, ...]
    files: tuple[str, ...]


def diff(before: Checkpoint, after: Checkpoint) -> Diff:
    """Return which tensors, config keys and files were added, removed or changed."""
    old, new = before.all_refs, after.all_refs
    both = old.keys() & new.keys()
    changed = (name for name in both if old[name].digest != new[name].digest)
    return Diff(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(changed)),
        config=_differing(before.config, after.config),
        files=_differing(before.files, after.files),
    )


def _differing(before: Mapping[str, object], after: Mapping[str, object]) -> tuple[str, ...]:
    """Return keys whose value differs, or that only one side has, even if the value is None."""
    same = {key for key in before.keys() & after.keys() if before[key] == after[key]}
    return tuple(sorted((before.keys() | after.keys()) - same))
