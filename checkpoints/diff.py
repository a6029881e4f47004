"""What differs between two checkpoints: a comparison of digests, not of values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .checkpoint import Checkpoint


@dataclass(frozen=True)
class Diff:
    """Names by what became of them from the first checkpoint to the second, each sorted.

    Attributes:
        added, removed, changed: tensors, `Checkpoint.unused` ones included.
        config, files: config keys and files that were added, removed or changed.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    config: tuple[str, ...]
    files: tuple[str, ...]


def diff(before: Checkpoint, after: Checkpoint) -> Diff:
    """Which tensors, config keys and files were added, removed or changed."""
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
    """Keys whose value differs or that only one side has, even when the value is None."""
    same = {key for key in before.keys() & after.keys() if before[key] == after[key]}
    return tuple(sorted((before.keys() | after.keys()) - same))
