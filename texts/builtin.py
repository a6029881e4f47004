"""Built-in text: Python's documentation, its standard library, and READMEs of packages."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from ..errors import DataError
from .corpus import RawText
from .markdown_prose import prose

# Tests, tables of character encodings, third-party packages, and the text of `pydoc`.
_NOT_LIBRARY = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "_bundled"}
    | {"encodings", "pydoc_data"}
)

# Requirements of birdbone, which every installation has.
_DESCRIBED = (
    *("torch", "transformers", "safetensors", "huggingface_hub", "accelerate", "peft"),
    *("bitsandbytes", "compressed-tensors", "gguf", "modulink-py", "pydantic", "numpy"),
    *("packaging", "psutil", "PyYAML", "typer", "rich", "structlog", "wandb"),
)


def read_pydoc() -> RawText:
    """Read the Python language reference: one document per topic, sorted by name."""
    from pydoc_data.topics import topics

    return RawText(f"pydoc ({_python()})", tuple(topics[key] for key in sorted(topics)))


def read_stdlib() -> RawText:
    """Read the source of the standard library without tests: one document per module, sorted.

    Raises:
        DataError: this Python has no source files of its standard library.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(_modules(folder), key=lambda path: path.relative_to(folder).as_posix())
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    documents = tuple(text for text in texts if text.strip())
    if not documents:
        raise DataError(
            f"this Python has no source of its standard library in '{folder}'; "
            f"give 'pydoc' or a text of your own"
        )
    return RawText(f"stdlib ({_python()})", documents)


def _modules(folder: Path) -> Iterable[Path]:
    """Paths of the modules, except files that describe the build machine."""
    for entry in folder.iterdir():
        if entry.name in _NOT_LIBRARY or entry.name.startswith(("_sysconfigdata", "config-")):
            continue
        if entry.suffix == ".py":
            yield entry
        elif entry.is_dir():
            inner = (path.relative_to(entry).parts for path in entry.rglob("*.py"))
            yield from (entry.joinpath(*parts) for parts in inner if not _NOT_LIBRARY & {*parts})


def read_readmes() -> RawText:
    """Read the prose of the READMEs of the packages birdbone requires: one document each."""
    texts = (prose(_description(name)) for name in _DESCRIBED)
    return RawText("readmes (installed packages)", tuple(text for text in texts if text))


def _description(package: str) -> str:
    """The description in a package's metadata; empty if the package is not installed."""
    try:
        page = metadata.distribution(package).read_text("METADATA") or ""
    except metadata.PackageNotFoundError:
        return ""
    return page.partition("\n\n")[2]


BUILTIN: Mapping[str, Callable[[], RawText]] = MappingProxyType(
    {"stdlib": read_stdlib, "pydoc": read_pydoc, "readmes": read_readmes}
)
"""Readers by source name, in the order in which they are chosen as text from elsewhere."""


def unused_builtin(used: Iterable[str]) -> str:
    """Return the first built-in source that is not in use.

    Raises:
        DataError: all of them are.
    """
    taken = set(used)
    for name in BUILTIN:
        if name not in taken:
            return name
    raise DataError(
        f"every built-in text ({', '.join(BUILTIN)}) is used already, and none is left as "
        f"text from elsewhere; name one with elsewhere="
    )


def _python() -> str:
    return f"CPython {sys.version_info.major}.{sys.version_info.minor}"
