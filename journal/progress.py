"""What a link in progress keeps: tensors as objects of its own, and one manifest that names them.

Saving writes only tensors that are not there yet, then exchanges the manifest, then lets go of
what the new one does not name; so a crash at any moment leaves the last whole state.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints import ObjectStore
from ..checkpoints.durable import write_durably
from ..checkpoints.manifest import decode_manifest, encode_manifest
from ..errors import CheckpointError, RunFolderError
from .journal import UNREADABLE


class WorkInProgress:
    """The folder of one unfinished link.

    Args:
        folder: made when something is first saved.
        tell: takes one line where what was saved turns out to be damaged.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._folder, self._tell = folder, tell
        self._objects = ObjectStore(folder)
        self._manifest = folder / "progress.json"

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved last; None where nothing was, or where it is damaged and so let go."""
        try:
            found = decode_manifest(self._manifest.read_bytes())
            tensors = {name: self._objects.tensor(entry) for name, entry in found["tensors"]}
            return tensors, dict(found["facts"])
        except FileNotFoundError:
            return None
        except (*UNREADABLE, CheckpointError) as error:
            self._tell(f"work in progress begins anew: {error}")
            self.clear()
            return None

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep these instead of what was saved last.

        Raises:
            RunFolderError: facts that JSON has no word for.
        """
        try:
            plain = json.loads(json.dumps(dict(facts), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise RunFolderError(
                f"work in progress cannot be kept: its facts hold what JSON cannot ({error}); keep "
                f"numbers, words and lists, and tensors among the tensors"
            ) from None
        entries = {name: self._objects.keep(tensor) for name, tensor in tensors.items()}
        content = {"tensors": list(entries.items()), "facts": plain}
        write_durably(self._manifest, encode_manifest(content))
        named = {entry["digest"] for entry in entries.values()}
        for path in (self._folder / "objects").glob("*/*"):
            if path.stem not in named:
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Let go of everything."""
        shutil.rmtree(self._folder, ignore_errors=True)
