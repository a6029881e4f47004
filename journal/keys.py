"""What decides a link's outcome, and the key made of it.

A key covers the link, its settings, the content of what it reads in its context and beside it, the
versions of the libraries and of Python, bird-bone's own code, the file that somebody else's link
is written in, and the kind of device. It fails closed: whatever of this differs, it is another key.
Not covered: how many threads compute, and what somebody else's function imports or closes over.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
import weakref
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..checkpoints import Checkpoint
from ..checkpoints.durable import file_hash
from ..checkpoints.tensors import digest
from ..engine import Chain, Link, chains_of
from ..errors import RunFolderError
from .records import Encoder, Unstorable

_LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "peft",
    "bitsandbytes",
    "compressed-tensors",
    "gguf",
    "numpy",
)
_PACKAGE = Path(__file__).resolve().parents[1]
# The rooms whose code decides what links leave.
_ROOMS = (
    "chains",
    "checkpoints",
    "contexts",
    "engine",
    "formats",
    "links",
    "models",
    "solvers",
    "texts",
)

Ingredients = Mapping[str, Any]


class Fingerprints:
    """Content hashes of values in contexts; a record's is made once for as long as it lives."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], str]] = {}
        self._encoder = Encoder(digest, _identity)

    def of(self, value: Any) -> str:
        """SHA-256 of the value, in hex.

        Raises:
            Unstorable: something in it is of a kind that is not kept.
        """
        held, found = self._known.get(id(value), (None, ""))
        if held is not None and held() is value:
            return found
        found = hash_of(self._encoder.tree(value))
        with suppress(TypeError):  # plain values cannot be watched, and cost little to hash again
            self._known[id(value)] = weakref.ref(value), found
        return found


def _identity(checkpoint: Checkpoint) -> str:
    return checkpoint.id


def hash_of(tree: Any) -> str:
    """SHA-256 over a tree of what JSON knows, in hex."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def ingredients(step: Link[Any], ctx: Mapping[str, Any], fingerprints: Fingerprints) -> Ingredients:
    """All that decides what a link leaves, in types JSON knows.

    Raises:
        RunFolderError: a key the link declares to read holds what cannot be hashed.
        Unstorable: a setting cannot be, or a key of a link that declares nothing.
    """
    found = described(step)
    return {
        **found,
        "reads": _reads(step, ctx, fingerprints),
        "versions": dict(_versions()),
        "code": {"birdbone": _own_code(), "link": _foreign_code(step)},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def described(step: Any) -> dict[str, Any]:
    """A link's name, settings and what it reads beside its context.

    Raises:
        Unstorable: it is a plain function, or a setting is of a kind that cannot be hashed.
    """
    if not isinstance(step, Link):
        raise Unstorable(f"{getattr(step, '__name__', step)!r} is a plain function")
    reads = step.factory.hooks.reads
    outside = None if reads is None else reads(step.settings)
    settings = {name: _setting(name, value) for name, value in step.settings}
    return {"link": step.__name__, "settings": settings, "outside": outside}


def _setting(name: str, value: Any) -> Any:
    """A setting's value as a tree; links and chains among settings are described in full."""
    if isinstance(value, Chain):
        return {"chain": [_setting(name, each) for each in value.links]}
    if isinstance(value, Link):
        if value.factory.hooks.intact is not None:
            raise Unstorable(
                f"setting '{name}' holds {value.__name__}, which leaves something behind"
            )
        return {**described(value), "code": _foreign_code(value)}
    return Encoder(digest, _identity).tree(value, f"setting '{name}'")


def _reads(step: Link[Any], ctx: Mapping[str, Any], fingerprints: Fingerprints) -> dict[str, str]:
    """The content of what the link may look at; the history, which holds times, is not.

    A link with a chain among its settings may look at anything, for the links of that chain.
    """
    declared = None if chains_of(step) else step.factory.may_read
    found = {}
    for key in sorted(ctx.keys() if declared is None else declared & ctx.keys()):
        if key == "history":
            continue
        try:
            found[key] = fingerprints.of(ctx[key])
        except Unstorable as error:
            if declared is None:
                raise Unstorable(f"context key '{key}': {error}") from None
            raise RunFolderError(unstorable(step, key, error)) from None
    return found


def unstorable(step: Link[Any], key: str, error: Unstorable) -> str:
    """The refusal of a value that a run folder cannot keep, with the mend."""
    return (
        f"{step.__name__} and a run folder: context key '{key}' cannot be kept, {error}; carry "
        f"plain values, tensors, checkpoints or frozen dataclasses given to "
        f"birdbone.journal.storable, or run without a run folder"
    )


@cache
def _versions() -> Mapping[str, str]:
    found = {"birdbone": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def _own_code() -> str:
    """Hash of bird-bone's own code, which a checkout changes without changing its version."""
    return source_hash(_PACKAGE)


def source_hash(package: Path) -> str:
    """SHA-256 over the Python files that decide what links return, sub-packages included.

    Args:
        package: folder of the package; only the folders named in `_ROOMS` count.
    """
    files = [path for room in _ROOMS for path in sorted((package / room).rglob("*.py"))]
    return hash_of([[path.relative_to(package).as_posix(), file_hash(path)] for path in files])


def _foreign_code(step: Link[Any]) -> str | None:
    """A hash of the file that somebody else's link is written in."""
    function = inspect.unwrap(step.factory.function)
    file = inspect.getsourcefile(function)
    if file is None or not Path(file).is_file():
        return hashlib.sha256(function.__code__.co_code).hexdigest()
    path = Path(file).resolve()
    own = any(path.is_relative_to(_PACKAGE / room) for room in _ROOMS)
    return None if own else file_hash(path)


def difference(before: Ingredients, now: Ingredients) -> str:
    """In words, what first tells two runs of one link apart."""
    for name, value in now["settings"].items():
        if before["settings"].get(name) != value:
            was = json.dumps(before["settings"].get(name))
            return f"its setting {name} is {json.dumps(value)}, was {was}"
    if before["outside"] != now["outside"]:
        return f"{_changed(before['outside'], now['outside'])} is not what it was"
    for name, value in now["versions"].items():
        if before["versions"].get(name) != value:
            return f"{name} is {value}, was {before['versions'].get(name)}"
    if before["code"] != now["code"]:
        return "its code, or bird-bone's, has changed"
    if before["device"] != now["device"]:
        return f"it computes on {now['device']}, did on {before['device']}"
    keys = _changed(before["reads"], now["reads"])
    return f"the {keys} it reads is not what it was"


def _changed(before: Any, now: Any) -> str:
    """The first key in which two mappings differ, in words where they are none."""
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return "what it reads"
    every = sorted(before.keys() | now.keys())
    return next((key for key in every if before.get(key) != now.get(key)), "what it reads")
