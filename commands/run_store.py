"""The run folder of a command: the one asked for, or one beside the output until the run ends."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import ResourceError, RunFolderError, SettingError, did_you_mean

if TYPE_CHECKING:
    from ..contexts.forecast import Preflight
    from ..engine import Chain
    from ..journal import RunFolder

SUFFIX = ".run"
"""Suffix of the folder beside the output in which finished links are kept until the run ends."""

_COPIES = 3  # of the original model: as loaded, as changed, and work in progress


def beside_output(chain: Chain) -> Path | None:
    """The folder for a run without ``--run``; None if the chain saves nothing."""
    from ..checkpoints.user_paths import user_path
    from ..reports.chains import save_links

    saves = save_links(chain)
    if not saves:
        return None
    path = user_path(saves[-1].settings.path)
    return path.with_name(f"{path.name}{SUFFIX}")


def check_start(chain: Chain, start_from: str | None, folder: Path | None) -> None:
    """Check ``--from`` before any work.

    Raises:
        SettingError: the chain has no such link, or there is no run folder to replay from.
    """
    from ..chains.preflight.fitting import single_links

    if start_from is None:
        return
    names = [str(getattr(each, "__name__", "")) for each in single_links(chain)]
    if start_from not in names:
        raise SettingError(
            f"--from {start_from}: chain '{chain.__name__}' has no link '{start_from}'; "
            f"{did_you_mean(start_from, names)}"
        )
    if folder is None or not folder.is_dir():
        where = "" if folder is None else f"'{folder}' does not exist; "
        raise SettingError(
            f"--from {start_from}: {where}give the run folder of an earlier run with --run DIR"
        )


@contextmanager
def run_store(
    folder: Path | None, *, asked: bool, start_from: str | None, expected: Preflight | None
) -> Iterator[RunFolder | None]:
    """Open the run folder of a run. If the run fails, a line says how to go on.

    Args:
        folder: None to keep nothing.
        asked: by the user. Otherwise the folder is removed once the run has ended well, and a note
            replaces it where there is too little room or something else has that name.
        expected: the estimate of the run.
    """
    from ..checkpoints import ranks
    from ..reports.terminal import say

    store, absent = None, _absent_parents(folder)
    if folder is not None:
        store = _opened(folder, start_from) if asked else _tried(folder, start_from, expected)
    if folder is None or store is None:
        yield None
        return
    try:
        with store:
            yield store
    except typer.Exit:
        raise  # stopped by a signal, which said so
    except Exception:
        if not ranks.is_first():
            raise
        if store.keys():
            kept = f"finished links are kept in {folder}"
            say("birdbone", f"{kept}; the same command resumes from there")
        elif not asked:
            _remove(folder, absent)
        raise
    if not asked and ranks.is_first():
        shutil.rmtree(folder)


def _absent_parents(folder: Path | None) -> list[Path]:
    """The parents of a folder that do not exist, the innermost first."""
    return [] if folder is None else [each for each in folder.parents if not each.exists()]


def _remove(folder: Path, parents: list[Path]) -> None:
    """Remove a folder and the parents that were made for it."""
    shutil.rmtree(folder)
    for each in parents:
        with suppress(OSError):  # something else is in it
            each.rmdir()


def _opened(folder: Path, start_from: str | None) -> RunFolder:
    from ..journal import RunFolder
    from ..reports.terminal import say

    return RunFolder(folder, tell=lambda line: say("birdbone", line), start_from=start_from)


def _check_room(folder: Path, expected: Preflight | None) -> None:
    from ..models.writing.publishing import check_disk

    if expected is not None and not folder.is_dir():
        output_bytes = sum(each.disk_bytes + each.passing_disk_bytes for each in expected.links)
        check_disk(folder, _COPIES * expected.model_bytes + output_bytes)


def _tried(folder: Path, start_from: str | None, expected: Preflight | None) -> RunFolder | None:
    from ..checkpoints import ranks
    from ..reports.terminal import say

    try:
        ranks.only_first(lambda: _check_room(folder, expected))
        return _opened(folder, start_from)
    except (ResourceError, RunFolderError) as error:
        say("note", f"finished links are not kept during this run: {error}", style="yellow")
        return None
