"""Reading a run folder: its steps in the order they were first done, and what each step added.

Layout: ``outcomes/KEY.json`` holds the outcome of one link, with a checksum. The models and tensors
it refers to are objects in the same folder (`checkpoints.ObjectStore`). ``last.json`` lists the
keys of the last run. ``unfinished/KEY/`` holds the state of an unfinished link. Reading needs no
lock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..checkpoints import Checkpoint, ObjectStore
from ..checkpoints.manifest import decode_manifest, encode_manifest
from ..checkpoints.user_paths import user_path
from ..contexts.steps import Step
from ..errors import RunFolderError
from .keys import Ingredients
from .records import Decoder

MARKER = "birdbone-run.json"
"""The file by which a run folder is recognised."""
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class KeptOutcome:
    """The stored outcome of one link.

    Attributes:
        number: its position among all outcomes ever stored in this folder, from 1.
        key: hash of ``made_from``.
        made_from: everything that determines the outcome, see `keys`.
        added: what the link added to the context, as encoded by `records`.
        steps: its entries in the history, likewise; the last is the link's own.
    """

    number: int
    key: str
    made_from: Ingredients
    added: Mapping[str, Any]
    steps: list[Any]

    def to_bytes(self) -> bytes:
        """Return the content of its file."""
        content = {name: getattr(self, name) for name in ("number", "key", "made_from", "steps")}
        return encode_manifest({**content, "added": list(self.added.items())})

    def checked(self) -> KeptOutcome:
        """Return self after checking that its record decodes to a `Step`.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: it does not.
        """
        if not isinstance(self.step, Step):
            raise TypeError("its record is not a Step")
        return self

    @cached_property
    def step(self) -> Step:
        """The record of the link."""
        found: Step = _PLAIN.value(self.steps[-1])
        return found

    def with_inner_steps(self) -> list[Step]:
        """The records of the links that ran inside this one, then its own."""
        return [_PLAIN.value(each) for each in self.steps]


def _no_tensor(entry: Any) -> Any:
    raise ValueError("a step's record cannot hold tensors")


_PLAIN = Decoder(_no_tensor, _no_tensor)
_CONTENT = TypeAdapter(KeptOutcome)


class Journal:
    """A run folder opened for reading.

    Raises:
        RunFolderError: there is no run folder at ``path``.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = user_path(path).resolve()
        self.objects = ObjectStore(self.path)
        if not (self.path / MARKER).is_file():
            raise RunFolderError(
                f"'{path}' is not a run folder; give the folder that was passed to run as --run"
            )

    def steps(self) -> list[KeptOutcome]:
        """Return all stored outcomes, in the order they were first done.

        Raises:
            RunFolderError: an outcome is damaged; the message names its file.
        """
        found = []
        for key in self.keys():
            with suppress(FileNotFoundError):  # deleted by another process since it was listed
                found.append(self.read(key))
        return sorted(found, key=lambda each: each.number)

    def keys(self) -> list[str]:
        """Return the keys of all stored outcomes, sorted."""
        return sorted(path.stem for path in (self.path / "outcomes").glob("*.json"))

    def step(self, number: int) -> KeptOutcome:
        """Return the step with this number.

        Raises:
            RunFolderError: there is no such step, or an outcome is damaged.
        """
        every = self.steps()
        for each in every:
            if each.number == number:
                return each
        known = ", ".join(str(each.number) for each in every) or "none"
        raise RunFolderError(f"run folder '{self.path}' has no step {number}; it has {known}")

    def read(self, key: str) -> KeptOutcome:
        """Return the outcome with this key.

        Raises:
            FileNotFoundError: there is none.
            RunFolderError: it is damaged.
        """
        path = self.outcome_path(key)
        try:
            found = decode_manifest(path.read_bytes())
            if found["key"] != key:
                raise ValueError("its content belongs to another key")
            return _CONTENT.validate_python({**found, "added": dict(found["added"])}).checked()
        except FileNotFoundError:
            raise
        except UNREADABLE as error:
            raise RunFolderError(
                f"{path} is damaged: {error}; delete it and run the same command again"
            ) from error

    def outcome_path(self, key: str) -> Path:
        """Return the path of the outcome with this key."""
        return self.path / "outcomes" / f"{key}.json"

    def last(self) -> list[str]:
        """Return the keys of the links of the last run, in order; empty if unknown."""
        return self._of_last_run("keys")

    def in_progress(self) -> list[str]:
        """Return the keys of the links that were running when the last run ended."""
        return self._of_last_run("open")

    def _of_last_run(self, what: str) -> list[str]:
        try:
            return [
                str(key) for key in decode_manifest((self.path / "last.json").read_bytes())[what]
            ]
        except UNREADABLE:
            return []

    def steps_of_last_run(self) -> list[KeptOutcome]:
        """Return the stored outcomes that the last run used, in its order; empty if unknown.

        Raises:
            RunFolderError: an outcome is damaged.
        """
        every = {each.key: each for each in self.steps()}
        return [every[key] for key in dict.fromkeys(self.last()) if key in every]

    def leading_to(self, kept: KeptOutcome) -> list[KeptOutcome]:
        """Return the steps of the run that ``kept`` belongs to, up to and including it.

        If the last run used this step, these are the last run's steps; otherwise all steps that
        were first done before it.
        """
        last = self.steps_of_last_run()
        keys = [each.key for each in last]
        if kept.key in keys:
            return last[: keys.index(kept.key) + 1]
        return [each for each in self.steps() if each.number <= kept.number]

    def value(self, kept: KeptOutcome, key: str) -> Any:
        """Return what a step added to the context as ``key``.

        Raises:
            RunFolderError: it added no such key.
            CheckpointError: the value is missing or damaged.
        """
        if key not in kept.added:
            added = ", ".join(sorted(kept.added)) or "nothing"
            raise RunFolderError(
                f"step {kept.number} ({kept.step.link}) added no '{key}'; it added {added}"
            )
        return self.decoder.value(kept.added[key])

    def checkpoint(self, kept: KeptOutcome) -> Checkpoint:
        """Return the model after a step.

        Raises:
            RunFolderError: the step comes before a model was loaded.
            CheckpointError: the model is missing or damaged.
        """
        if kept.step.checkpoint is None:
            raise RunFolderError(
                f"step {kept.number} ({kept.step.link}) comes before a model is loaded; choose a "
                "later step"
            )
        return self.objects.load(kept.step.checkpoint)

    @property
    def decoder(self) -> Decoder:
        """A decoder that loads tensors and models from this folder; each model only once."""
        return Decoder(self.objects.tensor, cache(self.objects.load))


def parse_step(text: str) -> tuple[Path, int]:
    """Parse ``RUN:STEP`` into a path and a number.

    Raises:
        RunFolderError: the text does not have that form.
    """
    folder, _, number = text.rpartition(":")
    if not folder or not number.isdecimal():
        raise RunFolderError(f"'{text}' is not a step; write RUN:STEP, such as runs/light:5")
    return Path(folder), int(number)


def plain(tree: Any) -> Any:
    """Return an encoded tree in readable form: kinds dropped, tensors as dtype and shape."""
    if isinstance(tree, list):
        return [plain(part) for part in tree]
    if not isinstance(tree, dict):
        return tree
    if "fields" in tree:
        return {name: plain(part) for name, part in tree["fields"].items()}
    if "map" in tree:
        return {_text(plain(key)): plain(part) for key, part in tree["map"]}
    if "tensor" in tree:
        return {name: tree["tensor"][name] for name in ("dtype", "shape")}
    if "checkpoint" in tree:
        return tree["checkpoint"]
    return plain(next(iter(tree.values())))


def _text(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key)
