"""The disk full at every single write of a run folder: refused by name, and nothing half-published.

The writes are counted where the store makes them; from the chosen one on all of them fail, as they
do on a full disk.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from birdbone.checkpoints import Checkpoint, InMemory, Quantized, store
from birdbone.contexts.flow import Empty
from birdbone.engine import Chain, link, run, unfinished
from birdbone.errors import LinkError, ResourceError, RunFolderError
from birdbone.journal import Journal, RunFolder, storable


@storable
@dataclass(frozen=True)
class Seen:
    values: Tensor


class Made(TypedDict):
    checkpoint: Checkpoint


class Looked(TypedDict):
    seen: Seen


@link
async def make(ctx: Empty) -> Made:
    codes = Quantized(torch.ones(2, 2, dtype=torch.int8), torch.ones(2, 1), bits=4)
    refs = {"a": InMemory(torch.arange(4.0)), "b": codes}
    return {"checkpoint": Checkpoint({"k": 1}, refs, {"tokenizer": b"words"})}


@link
async def look(ctx: Made) -> Looked:
    for step in range(2):
        unfinished().save({"at": torch.full((2,), float(step))}, {"step": step})
    return {"seen": Seen(ctx["checkpoint"].tensors["a"] * 2)}


CHAIN = Chain(make(), look())


class Disk:
    """Takes so many writes and then no more."""

    def __init__(self, room: int | None) -> None:
        self.room, self.taken = room, 0

    def guard(self, write: Callable[..., Any], full: Callable[[], Exception]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.taken += 1
            if self.room is not None and self.taken > self.room:
                raise full()
            return write(*args, **kwargs)

        return guarded


def no_space() -> Exception:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_space_in_rust() -> Exception:
    text = "Error while serializing: I/O error: No space left on device (os error 28)"
    return SafetensorError(text)


async def attempt(folder: Path, room: int | None) -> tuple[Any, int]:
    """One run on a disk of that room: its result, and how many writes it tried."""
    disk = Disk(room)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "save_file", disk.guard(store.save_file, no_space_in_rust))
        for module, name in ((os, "fsync"), (os, "replace"), (tempfile, "mkstemp")):
            patch.setattr(module, name, disk.guard(getattr(module, name), no_space))
        with RunFolder(folder) as opened:
            return await run(CHAIN, store=opened), disk.taken


def contents(folder: Path) -> Iterator[str]:
    return (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_a_disk_full_at_any_write_is_said_and_leaves_nothing_half_done(
    tmp_path: Path,
) -> None:
    whole, writes = await attempt(tmp_path / "whole", None)
    assert writes > 40
    for room in range(writes):
        folder = tmp_path / str(room)
        with pytest.raises((ResourceError, LinkError), match="is full; free some") as caught:
            await attempt(folder, room)
        if isinstance(caught.value, LinkError):
            assert isinstance(caught.value.__cause__, ResourceError)
        assert not [name for name in contents(folder) if name.endswith(".part")]
        again, _ = await attempt(folder, None)
        assert again["checkpoint"].id == whole["checkpoint"].id
        assert again["seen"].values.equal(whole["seen"].values)
        assert [each.step.link for each in Journal(folder).steps()] == ["make", "look"]
        assert not list((folder / "unfinished").glob("*"))


async def test_a_quota_is_a_full_disk_and_other_refusals_are_said_too(tmp_path: Path) -> None:
    def fails(number: int) -> Any:
        def fsync(handle: int) -> None:
            raise OSError(number, os.strerror(number))

        return fsync

    for number, kind, words in (
        (errno.EDQUOT, ResourceError, "is full; free some"),
        (errno.EROFS, RunFolderError, r"cannot be written \(.*Read-only file system"),
        (errno.EIO, RunFolderError, r"cannot be written \(.*Input/output error"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", fails(number))
            with pytest.raises(kind, match=words):
                RunFolder(tmp_path / str(number))
        RunFolder(tmp_path / str(number)).close()


def test_a_tensor_file_that_rust_cannot_write_is_a_full_disk_too(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as opened, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "save_file", Disk(0).guard(store.save_file, no_space_in_rust))
        from birdbone.journal.write_errors import writing_in

        with pytest.raises(ResourceError, match="is full"), writing_in(tmp_path):
            opened.objects.keep(torch.ones(1))
