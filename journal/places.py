"""Where the outcome of one link is stored in a run folder, on rank 0 and on the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..checkpoints import Checkpoint, TensorRef, ranks
from ..engine import Link, Outcome
from ..errors import CheckpointError, RunFolderError
from .journal import UNREADABLE
from .keys import Ingredients, hash_of
from .records import Unstorable
from .work_in_progress import WorkInProgress
from .write_errors import writing_in

if TYPE_CHECKING:
    from .folder import RunFolder


class Place:
    """Where the outcome of one link is stored.

    Args:
        key: of the outcome; by default that of ``made_from``.
    """

    def __init__(
        self,
        folder: RunFolder,
        step: Link[Any],
        ctx: Mapping[str, Any],
        made_from: Ingredients,
        *,
        key: str | None = None,
    ) -> None:
        self._folder, self._step, self._ctx, self._made_from = folder, step, ctx, made_from
        self.key = hash_of(made_from) if key is None else key
        self._progress = _progress_of(folder, self.key)

    def replay(self) -> Outcome | None:
        """Return the stored outcome after checking it completely; None if the link has to run."""
        found: Outcome | None = ranks.first_tells(self._replay, lambda each: each is not None)
        return found

    def _replay(self) -> Outcome | None:
        outcome = self._recalled()
        if outcome is None:
            self._begin()
        else:
            self._note()
        return outcome

    def _begin(self) -> None:
        self._folder.begin(self.key, self._made_from)

    def _note(self) -> None:
        self._progress.clear()
        self._folder.note(self.key)

    def _recalled(self) -> Outcome | None:
        name = self._step.__name__
        try:
            outcome = self._folder.recall(self._folder.read(self.key))
            for value in outcome.added.values():
                if isinstance(value, Checkpoint):
                    _check_whole(value)
        except FileNotFoundError:
            return None
        except (RunFolderError, CheckpointError, *UNREADABLE) as error:
            self._folder.tell(f"{name} runs again: {error}")
            return None
        intact = self._step.factory.hooks.intact
        if intact is not None and not intact(self._ctx, outcome.added):
            self._folder.tell(f"{name} runs again: the files it wrote are gone or were changed")
            return None
        return outcome

    def publish(self, outcome: Outcome) -> Outcome:
        """Store the outcome and return it as read back from the folder; as it is if it cannot."""
        stored = ranks.first_tells(lambda: self._publish(outcome), lambda each: each is not None)
        return outcome if stored is None else stored

    def _publish(self, outcome: Outcome) -> Outcome | None:
        try:
            kept = self._folder.keep(self.key, self._made_from, self._step, outcome)
        except Unstorable as error:
            name = self._step.__name__
            self._folder.tell(f"{name} cannot be stored and runs each time: {error}")
            return None
        self._note()
        return self._folder.recall(kept)

    def keep(self, ref: TensorRef) -> TensorRef:
        """Store a finished tensor of the running link."""
        return self._progress.ref(ranks.from_first(lambda: self._keep(ref)))

    def _keep(self, ref: TensorRef) -> dict[str, Any]:
        self._folder.check_standing()
        with writing_in(self._folder.path):
            return self._progress.store(ref)

    def load(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the work in progress of an interrupted run."""
        found: tuple[dict[str, Any], dict[str, Any]] | None = ranks.first_tells(
            self._progress.load, lambda each: each is not None
        )
        return found

    def save(self, tensors: Mapping[str, Tensor | TensorRef], facts: Mapping[str, Any]) -> None:
        """Store work in progress."""
        ranks.only_first(lambda: self._save(tensors, facts))

    def _save(self, tensors: Mapping[str, Tensor | TensorRef], facts: Mapping[str, Any]) -> None:
        self._folder.check_standing()
        with writing_in(self._folder.path):
            self._progress.save(tensors, facts)


class RunsAgain(Place):
    """The place of a link that runs even if its outcome is stored."""

    def _replay(self) -> None:
        """Return None: the link has to run."""
        self._begin()


class Replayed(Place):
    """The place of a link that must not run."""

    def _replay(self) -> Outcome:
        """Return the stored outcome after checking it completely.

        Raises:
            RunFolderError: it is damaged; what is damaged was told before.
        """
        outcome = self._recalled()
        if outcome is None:
            raise RunFolderError(
                f"the stored result of {self._step.__name__} cannot be replayed; leave --from out"
            )
        self._note()
        return outcome


class Followed:
    """The place of a link on a rank other than 0: reads what rank 0 found or wrote in the folder.

    Args:
        key: of the outcome.
    """

    def __init__(self, folder: RunFolder, key: str) -> None:
        self._folder, self._key = folder, key
        self._progress = _progress_of(folder, key)

    def replay(self) -> Outcome | None:
        """Return the stored outcome, where rank 0 found it intact."""
        return self._recalled() if ranks.told_by_first() else None

    def publish(self, outcome: Outcome) -> Outcome:
        """Return the outcome that rank 0 stored; the given one if it could not."""
        return self._recalled() if ranks.told_by_first() else outcome

    def _recalled(self) -> Outcome:
        return self._folder.recall(self._folder.read(self._key))

    def keep(self, ref: TensorRef) -> TensorRef:
        """Return a reference to the same tensor, which rank 0 stored."""
        return self._progress.ref(ranks.told_by_first())

    def load(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the work in progress, where rank 0 found some."""
        return self._progress.read() if ranks.told_by_first() else None

    def save(self, tensors: Mapping[str, Tensor | TensorRef], facts: Mapping[str, Any]) -> None:
        """Wait until rank 0 has stored its work in progress."""
        ranks.told_by_first()


def _progress_of(folder: RunFolder, key: str) -> WorkInProgress:
    return WorkInProgress(folder.path / "unfinished" / key, folder.tell)


def _check_whole(checkpoint: Checkpoint) -> None:
    """Load every tensor once, which verifies each against its checksum."""
    for ref in checkpoint.all_refs.values():
        ref.load()
