"""Finished tensors on disk for as long as something refers to them, in a run without a folder."""

from __future__ import annotations

import shutil
import tempfile
import warnings
import weakref

from safetensors import SafetensorError

from ...checkpoints import TensorRef
from ...checkpoints.store import ObjectStore

HELD_BYTES = 512_000_000
"""Bytes of finished tensors that stay in memory; those of a small model are never written."""


class TemporaryPlace:
    """Takes the finished tensors of one pass or training that no later run resumes.

    Tensors beyond the first `HELD_BYTES` are written to a folder among the temporary files
    (``TMPDIR``). It is deleted once no reference to its tensors is left, and when the
    process ends by itself.
    """

    def __init__(self) -> None:
        self._held = 0
        self._store: ObjectStore | None = None
        self._full = False

    def keep(self, ref: TensorRef) -> TensorRef:
        """The tensor on disk, or as it is while there is room in memory or none on disk."""
        self._held += ref.num_bytes
        if self._full or self._held <= HELD_BYTES:
            return ref
        try:
            store = self._opened()
            return store.ref(store.keep(ref))
        except (OSError, SafetensorError) as error:
            self._full = True
            warnings.warn(
                f"finished tensors stay in memory, since {tempfile.gettempdir()} cannot be written "
                f"to: {error}; free space there, set TMPDIR, or give a run folder",
                stacklevel=2,
            )
            return ref

    def _opened(self) -> ObjectStore:
        if self._store is None:
            folder = tempfile.mkdtemp(prefix="birdbone-")
            self._store = ObjectStore(folder)
            weakref.finalize(self._store, shutil.rmtree, folder, ignore_errors=True)
        return self._store
