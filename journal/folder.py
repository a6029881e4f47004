"""The run folder that a run writes: outcomes of finished links, found again by their cache key.

Caching and resuming are the same mechanism: running a chain again replays every stored outcome and
computes the rest. An outcome is published in one atomic step, after everything it refers to.
Everything read is checked against its checksum; a damaged outcome is recomputed. Timestamps play no
role.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import __version__
from ..checkpoints import ranks
from ..checkpoints.durable import write_durably
from ..checkpoints.manifest import encode_manifest
from ..checkpoints.user_paths import user_path
from ..contexts.steps import Step
from ..engine import Link, Outcome
from ..errors import RunFolderError
from .journal import MARKER, Journal, KeptOutcome
from .keys import (
    Fingerprints,
    Ingredients,
    difference,
    hash_of,
    ingredients,
    same_work,
    unstorable,
)
from .lock import Lock
from .places import Followed, Place, Replayed, RunsAgain
from .records import Encoder, Unstorable
from .write_errors import writing_in


class RunFolder(Journal):
    """A `birdbone.engine.Store` on disk, for one process at a time.

    Args:
        path: created if it does not exist.
        tell: receives one line about each link that runs again or cannot be stored.
        start_from: name of a link that runs again, and with it every link after it. Those before
            it are replayed, also if another version of birdbone or of a library stored them, and
            never run.

    Raises:
        RunFolderError: the folder is in use, holds something else, or cannot be written.
        ResourceError: the disk is full.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        tell: Callable[[str], None] = lambda line: None,
        start_from: str | None = None,
    ) -> None:
        self.tell = tell
        self._start_from, self._started = start_from, start_from is None
        folder = user_path(path).resolve()
        ranks.start()
        self._lock = ranks.only_first(lambda: _locked(folder))
        try:
            _require_seen(folder)
            super().__init__(folder)
        except BaseException:
            self.close()
            raise
        self._guard = threading.Lock()
        self._fingerprints = Fingerprints()
        self._count = max((each.number for each in self._readable()), default=0)
        # Keys of the links of the previous run, of this run's finished links, of its running ones.
        self._before, self._now, self._open = self.last(), list[str](), list[str]()
        self._differed = False

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder for the next process."""
        if self._lock is not None:
            self._lock.release()

    def place(self, step: Link[Any], ctx: Mapping[str, Any]) -> Place | Followed | None:
        """Return where the outcome of a link on this context is stored, or None if it cannot be.

        On several ranks the folder is rank 0's, and the others read what it decides to.

        Raises:
            RunFolderError: a context key the link declares to read cannot be hashed, the folder was
                removed, or the link comes before ``start_from`` and has no stored outcome.
        """
        found = ranks.first_tells(
            lambda: self._own_place(step, ctx), lambda place: place and place.key
        )
        return Followed(self, found) if isinstance(found, str) else found

    def _own_place(self, step: Link[Any], ctx: Mapping[str, Any]) -> Place | None:
        self.check_standing()
        self._started = self._started or step.__name__ == self._start_from
        try:
            made_from = ingredients(step, ctx, self._fingerprints)
        except Unstorable as error:
            self.tell(f"{step.__name__} cannot be stored and runs each time: {error}")
            return None
        if self._start_from is None:
            return Place(self, step, ctx, made_from)
        if self._started:
            return RunsAgain(self, step, ctx, made_from)
        return Replayed(self, step, ctx, made_from, key=self._stored_before(step, made_from))

    def _stored_before(self, step: Link[Any], made_from: Ingredients) -> str:
        """Return the key of the newest outcome that differs at most in versions and code.

        Raises:
            RunFolderError: there is none.
        """
        key, name = hash_of(made_from), step.__name__
        if key in self.keys():
            return key
        found = [each for each in self._readable() if each.made_from["link"] == name]
        found.sort(key=lambda each: each.number, reverse=True)
        for each in found:
            if same_work(each.made_from, made_from):
                why = difference(each.made_from, made_from)
                self.tell(f"{name} is replayed from step {each.number}, although {why}")
                return each.key
        why = difference(found[0].made_from, made_from) if found else "none is in the folder"
        raise RunFolderError(
            f"the run cannot start from {self._start_from}: run folder '{self.path}' has no result "
            f"of {name} for this run ({why}); leave --from out to run {name} again"
        )

    def check_standing(self) -> None:
        """Check that the folder still exists.

        Raises:
            RunFolderError: it was removed or replaced.
        """
        if self._lock is not None:
            self._lock.check()

    def begin(self, key: str, made_from: Ingredients) -> None:
        """Record that a link starts. Report why, if the previous run had another outcome for it."""
        with self._guard:
            was = None if self._differed else self._counterpart(key, made_from["link"])
            self._differed |= was is not None
            self._open.append(key)
            self._write_last()
        if was is not None:
            self.tell(f"{made_from['link']} runs again: {difference(was.made_from, made_from)}")

    def _counterpart(self, key: str, link: str) -> KeptOutcome | None:
        """Return the next outcome of this link in the previous run, if it has another key."""
        if key in self._before:
            return None
        left = [each for each in self._before if each not in self._now]
        found = (each for each in self._readable(left) if each.made_from["link"] == link)
        return next(found, None)

    def note(self, key: str) -> None:
        """Record that a link's outcome is stored: published or replayed."""
        with self._guard:
            self._now.append(key)
            self._open = [each for each in self._open if each != key]
            self._write_last()

    def _write_last(self) -> None:
        with writing_in(self.path):
            write_durably(
                self.path / "last.json", encode_manifest({"keys": self._now, "open": self._open})
            )

    def keep(
        self, key: str, made_from: Ingredients, step: Link[Any], outcome: Outcome
    ) -> KeptOutcome:
        """Store an outcome: everything it refers to first, then the file that refers to it.

        Raises:
            Unstorable: a link without declared outputs added a value that cannot be stored.
            RunFolderError: a link with declared outputs did; or the folder was removed or cannot be
                written.
            ResourceError: the disk is full.
        """
        self.check_standing()
        with writing_in(self.path):
            encoder = Encoder(self.objects.keep, self.objects.save)
            added = {name: _tree(encoder, step, name, v) for name, v in outcome.added.items()}
            steps = [encoder.tree(_plainly(each, encoder)) for each in outcome.steps]
            with self._guard:
                self._count += 1
                kept = KeptOutcome(self._count, key, made_from, added, steps)
                write_durably(self.outcome_path(key), kept.to_bytes())
        return kept

    def _readable(self, keys: Iterable[str] | None = None) -> Iterator[KeptOutcome]:
        """Yield outcomes, all or those with the given keys; skip damaged and missing ones."""
        for key in self.keys() if keys is None else keys:
            with suppress(FileNotFoundError, RunFolderError):
                yield self.read(key)

    def recall(self, kept: KeptOutcome) -> Outcome:
        """Return an outcome with its values; the tensors of models stay on disk."""
        decoder = self.decoder
        values = {name: decoder.value(tree) for name, tree in kept.added.items()}
        return Outcome(values, tuple(decoder.value(tree) for tree in kept.steps))


def _locked(folder: Path) -> Lock:
    """Make a folder a run folder, and lock it."""
    with writing_in(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _check_ours(folder)
        lock = Lock(folder)
    try:
        with writing_in(folder):
            if not (folder / MARKER).exists():
                write_durably(folder / MARKER, encode_manifest({"birdbone": __version__}))
    except BaseException:
        lock.release()
        raise
    return lock


def _require_seen(folder: Path) -> None:
    """Check that all ranks see the folder that rank 0 opened.

    Raises:
        RunFolderError: a rank does not.
    """
    if ranks.size() == 1:
        return
    sign = folder / f"{ranks.from_first(lambda: secrets.token_hex(8))}.part"
    ranks.only_first(sign.touch)
    seen = ranks.exchanged(sign.exists())
    ranks.only_first(sign.unlink)
    if not all(seen):
        raise RunFolderError(
            f"rank {seen.index(False)} does not see the run folder '{folder}' of rank 0; give a "
            f"folder on a disk that all ranks see"
        )


def _check_ours(folder: Path) -> None:
    left_by_a_crash = ("lock", ".part")
    others = [each for each in folder.iterdir() if not each.name.endswith(left_by_a_crash)]
    if others and not (folder / MARKER).exists():
        raise RunFolderError(
            f"'{folder}' holds other files and is not a run folder; give an empty or new folder"
        )


def _tree(encoder: Encoder, step: Link[Any], key: str, value: Any) -> Any:
    try:
        return encoder.tree(value)
    except Unstorable as error:
        if key in step.adds:
            raise RunFolderError(unstorable(step, key, error)) from None
        raise Unstorable(f"context key '{key}': {error}") from None


def _plainly(step: Step, encoder: Encoder) -> Step:
    """Return the record with settings and metrics that cannot be stored replaced by their text."""

    def kept(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _or_text(value, encoder) for name, value in values.items()}

    return replace(step, settings=kept(step.settings), metrics=kept(step.metrics))


def _or_text(value: Any, encoder: Encoder) -> Any:
    try:
        encoder.tree(value)
    except Unstorable:
        return str(value)
    return value
