"""The saved state of a link that has not finished: tensors, and a manifest that lists them.

Saving writes the tensors that are not stored yet, then replaces the manifest, then deletes tensors
the new manifest does not list. A crash at any point leaves the last complete state.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints import ObjectStore, TensorRef
from ..checkpoints.durable import write_durably
from ..checkpoints.manifest import decode_manifest, encode_manifest
from ..errors import CheckpointError, RunFolderError
from .journal import UNREADABLE


class WorkInProgress:
    """The folder of one unfinished link.

    Args:
        folder: created on the first save.
        tell: receives one line if the saved state turns out to be damaged.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._folder, self._tell = folder, tell
        self._objects = ObjectStore(folder)
        self._manifest = folder / "progress.json"

    def keep(self, ref: TensorRef) -> TensorRef:
        """Store a finished tensor, which no longer has to be in memory.

        It lasts beyond this process only if a later `save` names the returned reference.
        """
        return self.ref(self.store(ref))

    def store(self, ref: TensorRef) -> dict[str, Any]:
        """Store a finished tensor and return what `ref` finds it by."""
        return self._objects.keep(ref)

    def ref(self, entry: Mapping[str, Any]) -> TensorRef:
        """Return a reference to what `store` stored."""
        return self._objects.ref(entry)

    def load(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return what was saved last, or None if there is nothing; references are read later.

        A damaged state is deleted, and None is returned.
        """
        try:
            return self.read()
        except FileNotFoundError:
            return None
        except (*UNREADABLE, CheckpointError) as error:
            self._tell(f"work in progress is damaged and starts over: {error}")
            self.clear()
            return None

    def read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what was saved last; an error if there is nothing, or if it is damaged."""
        found = decode_manifest(self._manifest.read_bytes())
        return {n: self._read(entry) for n, entry in found["tensors"]}, dict(found["facts"])

    def _read(self, entry: Mapping[str, Any]) -> Tensor | TensorRef:
        if not entry.get("kept"):
            return self._objects.tensor(entry)
        ref = self._objects.ref(entry)
        ref.load()  # verified now, so that damage starts the link again instead of ending it
        return ref

    def save(self, tensors: Mapping[str, Tensor | TensorRef], facts: Mapping[str, Any]) -> None:
        """Replace the saved state.

        Args:
            tensors: name to tensor, or to what `keep` returned.
            facts: JSON-compatible values.

        Raises:
            RunFolderError: ``facts`` holds a value that JSON cannot represent.
        """
        try:
            plain = json.loads(json.dumps(dict(facts), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise RunFolderError(
                f"work in progress cannot be saved: facts hold a value JSON cannot represent "
                f"({error}); use numbers, text and lists, and pass tensors as tensors"
            ) from None
        entries = {
            name: {**self._objects.keep(each), "kept": isinstance(each, TensorRef)}
            for name, each in tensors.items()
        }
        content = {"tensors": list(entries.items()), "facts": plain}
        write_durably(self._manifest, encode_manifest(content))
        named = {entry["digest"] for entry in entries.values()}
        for path in (self._folder / "objects").glob("*/*"):
            if path.stem not in named:
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete the saved state."""
        shutil.rmtree(self._folder, ignore_errors=True)
