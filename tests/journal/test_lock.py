"""One holder at a time, named to the next; a folder that was replaced is noticed."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from birdbone.errors import RunFolderError
from birdbone.journal.lock import Lock


def test_the_holder_is_named_until_it_lets_go(tmp_path: Path) -> None:
    first = Lock(tmp_path)
    with pytest.raises(RunFolderError, match=f"in use by process {os.getpid()}"):
        Lock(tmp_path)
    first.release()
    first.release()
    second = Lock(tmp_path)
    second.check()
    second.release()


def test_a_lock_that_cannot_be_written_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            Lock(tmp_path)
    Lock(tmp_path).release()


@pytest.mark.parametrize("made_again", [True, False])
def test_a_folder_removed_or_replaced_is_noticed(tmp_path: Path, made_again: bool) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lock = Lock(folder)
    shutil.rmtree(folder)
    if made_again:
        folder.mkdir()
        (folder / "lock").touch()
    with pytest.raises(RunFolderError, match="was removed or replaced while it was in use"):
        lock.check()
    lock.release()
