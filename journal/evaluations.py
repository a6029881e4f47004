"""Results of tasks in a run folder: ``evaluations/KEY.json``, each with a checksum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checkpoints.durable import write_durably
from ..checkpoints.manifest import decode_manifest, encode_manifest
from .folder import RunFolder
from .journal import UNREADABLE
from .write_errors import writing_in


class KeptEvaluations:
    """The results of tasks that a run folder holds, by key.

    Args:
        folder: an open run folder, or None to keep results in memory alone.
    """

    def __init__(self, folder: RunFolder | None) -> None:
        self._folder = folder
        self._known: dict[str, Mapping[str, Any]] = {}

    def find(self, key: str) -> Mapping[str, Any] | None:
        """Return the result under a key; None if there is none that can be read."""
        if key in self._known or self._folder is None:
            return self._known.get(key)
        path = self._folder.path / "evaluations" / f"{key}.json"
        try:
            found: Mapping[str, Any] = decode_manifest(path.read_bytes())["result"]
        except FileNotFoundError:
            return None
        except UNREADABLE as error:
            self._folder.tell(f"a task is evaluated again: its kept result is damaged ({error})")
            return None
        return found

    def keep(self, key: str, found: Mapping[str, Any]) -> None:
        """Keep a result.

        Raises:
            RunFolderError: the folder was removed or cannot be written.
            ResourceError: the disk is full.
        """
        self._known[key] = found
        if self._folder is not None:
            self._folder.check_standing()
            with writing_in(self._folder.path):
                path = self._folder.path / "evaluations" / f"{key}.json"
                write_durably(path, encode_manifest({"result": found}))
