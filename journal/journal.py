"""Reading a run folder: its steps in the order they were first done, and what each left.

Layout: ``outcomes/KEY.json`` is what one link left, with a checksum; models and tensors it
names are objects beside it (see `checkpoints.ObjectStore`), ``last.json`` the keys of the last
run, ``unfinished/KEY/`` what a link in progress left. Reading needs no lock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Kept:
    """One link's outcome as it lies in the folder.

    Attributes:
        number: its place among all that were ever kept here, from 1.
        key: hash of what decided it.
        made_from: what decided it.
        added, steps: trees of what it added to the context and to the history.
    """

    number: int
    key: str
    made_from: Ingredients
    added: Mapping[str, Any]
    steps: list[Any]

    def to_bytes(self) -> bytes:
        """The content of its file."""
        content = {name: getattr(self, name) for name in ("number", "key", "made_from", "steps")}
        return encode_manifest({**content, "added": list(self.added.items())})

    def checked(self) -> Kept:
        """This, its record of the link known to be one.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: it is not.
        """
        if not isinstance(self.step, Step):
            raise TypeError("its record is of no step")
        return self

    @cached_property
    def step(self) -> Step:
        """The link's own record."""
        found: Step = _PLAIN.value(self.steps[-1])
        return found

    def with_inner_steps(self) -> list[Step]:
        """The records of the links that ran inside this one, then its own."""
        return [_PLAIN.value(each) for each in self.steps]


def _no_tensor(entry: Any) -> Any:
    raise ValueError("a step's record holds no tensors")


_PLAIN = Decoder(_no_tensor, _no_tensor)
_CONTENT = TypeAdapter(Kept)


class Journal:
    """A run folder that is only read.

    Raises:
        RunFolderError: there is none at that path.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = user_path(path).resolve()
        self.objects = ObjectStore(self.path)
        if not (self.path / MARKER).is_file():
            raise RunFolderError(f"'{path}' is no run folder; give what was given to run as --run")

    def steps(self) -> list[Kept]:
        """Every outcome kept here, in the order they were first done.

        Raises:
            RunFolderError: one is damaged, naming its file.
        """
        return sorted(map(self.read, self.keys()), key=lambda each: each.number)

    def keys(self) -> list[str]:
        """The keys of all outcomes kept here."""
        return sorted(path.stem for path in (self.path / "outcomes").glob("*.json"))

    def step(self, number: int) -> Kept:
        """One step by its number.

        Raises:
            RunFolderError: there is none of that number, or it is damaged.
        """
        every = self.steps()
        for each in every:
            if each.number == number:
                return each
        known = ", ".join(str(each.number) for each in every) or "none"
        raise RunFolderError(f"run folder '{self.path}' has no step {number}; it has {known}")

    def read(self, key: str) -> Kept:
        """The outcome of a key.

        Raises:
            FileNotFoundError: there is none.
            RunFolderError: it is damaged.
        """
        path = self.outcome_path(key)
        try:
            found = decode_manifest(path.read_bytes())
            if found["key"] != key:
                raise ValueError("its content is of another key")
            return _CONTENT.validate_python({**found, "added": dict(found["added"])}).checked()
        except FileNotFoundError:
            raise
        except UNREADABLE as error:
            raise RunFolderError(
                f"{path} is damaged: {error}; delete it, and the same run makes it again"
            ) from error

    def outcome_path(self, key: str) -> Path:
        """Where the outcome of a key lies."""
        return self.path / "outcomes" / f"{key}.json"

    def last(self) -> list[str]:
        """Keys of the links the last run came to, in order; empty where that is not known."""
        return self._of_last_run("keys")

    def in_progress(self) -> list[str]:
        """Keys of the links the last run was at when it ended."""
        return self._of_last_run("open")

    def _of_last_run(self, what: str) -> list[str]:
        try:
            return [
                str(key) for key in decode_manifest((self.path / "last.json").read_bytes())[what]
            ]
        except UNREADABLE:
            return []

    def leading_to(self, kept: Kept) -> list[Kept]:
        """The steps of the run that a step belongs to, up to and with it.

        Those of the last run where it came to the step; else all that were first done before it.
        """
        every = {each.key: each for each in self.steps()}
        last = [every[key] for key in dict.fromkeys(self.last()) if key in every]
        if kept.key in {each.key for each in last}:
            return last[: [each.key for each in last].index(kept.key) + 1]
        return [each for each in every.values() if each.number <= kept.number]

    def value(self, kept: Kept, key: str) -> Any:
        """What a step added to the context under a key.

        Raises:
            RunFolderError: nothing, with what it did add.
            CheckpointError: it is missing or damaged.
        """
        if key not in kept.added:
            added = ", ".join(sorted(kept.added)) or "nothing"
            raise RunFolderError(
                f"step {kept.number} ({kept.step.link}) added no '{key}'; it added {added}"
            )
        return self.decoder.value(kept.added[key])

    def checkpoint(self, kept: Kept) -> Checkpoint:
        """The model as it stood after a step.

        Raises:
            RunFolderError: there was none yet.
            CheckpointError: it is missing or damaged.
        """
        if kept.step.checkpoint is None:
            raise RunFolderError(
                f"step {kept.number} ({kept.step.link}) stands before there is a model"
            )
        return self.objects.load(kept.step.checkpoint)

    @property
    def decoder(self) -> Decoder:
        """Makes values of trees, with the tensors and models that lie here; each model once."""
        return Decoder(self.objects.tensor, cache(self.objects.load))


def parse_step(text: str) -> tuple[Path, int]:
    """``RUN:STEP`` as a path and a number.

    Raises:
        RunFolderError: it is not of that form.
    """
    folder, _, number = text.rpartition(":")
    if not folder or not number.isdecimal():
        raise RunFolderError(f"'{text}' names no step; write RUN:STEP, as in runs/light:5")
    return Path(folder), int(number)


def plain(tree: Any) -> Any:
    """A tree for people and programs to read: kinds dropped, tensors as dtype and shape."""
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
