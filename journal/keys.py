"""The cache key of a link's outcome: a hash of everything that determines it.

A key covers the link, its settings, the content of the context keys and files it reads, the
versions of the libraries and of Python, birdbone's own source code, the source file of a user's
link, and the kind of device. If any of these differs, so does the key. Not covered: the number of
threads, and what a user's function imports or closes over.
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

from .. import __version__
from ..checkpoints import Checkpoint
from ..checkpoints.devices import describe_device
from ..checkpoints.durable import file_hash
from ..checkpoints.placement import current_device
from ..checkpoints.tensors import digest
from ..contexts.placement import placed_by
from ..engine import Chain, Link, chains_of
from ..errors import RunFolderError
from ..models.blocks.products import product_dtype
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
# The packages whose code determines the outcomes of links.
_HASHED_PACKAGES = (
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
    """Content hashes of context values. An object's hash is cached for as long as it exists."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], str]] = {}
        self._encoder = Encoder(digest, _identity)

    def of(self, value: Any) -> str:
        """Return the SHA-256 of a value, in hex.

        Raises:
            Unstorable: the value, or a value inside it, is of a kind that cannot be stored.
        """
        held, found = self._known.get(id(value), (None, ""))
        if held is not None and held() is value:
            return found
        found = hash_of(self._encoder.tree(value))
        with suppress(TypeError):  # plain values allow no weak reference, and are cheap to hash
            self._known[id(value)] = weakref.ref(value), found
        return found


def _identity(checkpoint: Checkpoint) -> str:
    return checkpoint.id


def hash_of(tree: Any) -> str:
    """Return the SHA-256, in hex, of a JSON-compatible tree."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def ingredients(step: Link[Any], ctx: Mapping[str, Any], fingerprints: Fingerprints) -> Ingredients:
    """Return everything that determines a link's outcome, JSON-compatible.

    Raises:
        RunFolderError: a context key that the link declares to read cannot be hashed.
        Unstorable: a setting cannot be hashed, or a context key of a link that declares nothing.
    """
    found = described(step)
    return {
        **found,
        "reads": _reads(step, ctx, fingerprints),
        "versions": dict(_versions()),
        "code": {"birdbone": _own_code(), "link": _foreign_code(step)},
        "device": _device(ctx),
    }


def _device(ctx: Mapping[str, Any]) -> str:
    with placed_by(ctx):
        device = current_device()
        rounded = product_dtype(device)
    products = "" if rounded is None else f", products in {str(rounded).removeprefix('torch.')}"
    return f"{describe_device(device)}{products}"


def described(step: Any) -> dict[str, Any]:
    """Return a link's name, settings, and the state of the files it reads.

    Raises:
        Unstorable: it is a plain function, or a setting cannot be hashed.
    """
    if not isinstance(step, Link):
        raise Unstorable(f"{getattr(step, '__name__', step)!r} is a plain function")
    reads = step.factory.hooks.reads
    outside = None if reads is None else reads(step.settings)
    settings = {name: _setting(name, value) for name, value in step.settings}
    return {"link": step.__name__, "settings": settings, "outside": outside}


def _setting(name: str, value: Any) -> Any:
    """Encode a setting's value; links and chains among settings are described in full."""
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
    """Return the hash of every context key the link may read, except the history (it holds times).

    A link with a chain among its settings may read any key, on behalf of the links of that chain.
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
    """Return the error message for a value that a run folder cannot store."""
    return (
        f"{step.__name__} in a run folder: context key '{key}' cannot be stored, {error}; use "
        f"plain values, tensors, checkpoints or frozen dataclasses decorated with "
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
    """Return the hash of birdbone's own source, which may change without a new version."""
    return source_hash(_PACKAGE)


def source_hash(package: Path) -> str:
    """Return the SHA-256 over the Python files that determine outcomes, sub-packages included.

    Args:
        package: folder of the package; only the folders in `_HASHED_PACKAGES` count.
    """
    files = [path for each in _HASHED_PACKAGES for path in sorted((package / each).rglob("*.py"))]
    return hash_of([[path.relative_to(package).as_posix(), file_hash(path)] for path in files])


def _foreign_code(step: Link[Any]) -> str | None:
    """Return the hash of the source file of a user's link; None for birdbone's own links."""
    function = inspect.unwrap(step.factory.function)
    file = inspect.getsourcefile(function)
    if file is None or not Path(file).is_file():
        return hashlib.sha256(function.__code__.co_code).hexdigest()
    path = Path(file).resolve()
    own = any(path.is_relative_to(_PACKAGE / each) for each in _HASHED_PACKAGES)
    return None if own else file_hash(path)


def same_work(before: Ingredients, now: Ingredients) -> bool:
    """Return whether two runs of a link differ at most in versions and in code.

    A setting that only one of them has, which another version added or removed, is ignored.
    """
    common = before["settings"].keys() & now["settings"].keys()
    return all(before["settings"][name] == now["settings"][name] for name in common) and all(
        before[name] == now[name] for name in ("link", "outside", "reads", "device")
    )


def difference(before: Ingredients, now: Ingredients) -> str:
    """Describe the first difference between two runs of a link."""
    for name, value in now["settings"].items():
        if before["settings"].get(name) != value:
            was = json.dumps(before["settings"].get(name))
            return f"its setting {name} is {json.dumps(value)}, was {was}"
    if before["outside"] != now["outside"]:
        return f"{_changed(before['outside'], now['outside'])} has changed"
    for name, value in now["versions"].items():
        if before["versions"].get(name) != value:
            return f"{name} is {value}, was {before['versions'].get(name)}"
    if before["code"] != now["code"]:
        return "its code, or birdbone's, has changed"
    if before["device"] != now["device"]:
        return f"it computes on {now['device']}, was {before['device']}"
    keys = _changed(before["reads"], now["reads"])
    return f"the {keys} it reads has changed"


def _changed(before: Any, now: Any) -> str:
    """Return the first key in which two mappings differ."""
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return "what it reads"
    every = sorted(before.keys() | now.keys())
    return next((key for key in every if before.get(key) != now.get(key)), "what it reads")
