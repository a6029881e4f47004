"""The gguf package, which is an extra: needed for GGUF files and for values of ggml's blocks."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import MissingExtraError


def require_gguf() -> Any:
    """Return the gguf package, with its module ``quants`` imported.

    Raises:
        MissingExtraError: it is not installed; the message names the extra.
    """
    try:
        import_module("gguf.quants")
        return import_module("gguf")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "GGUF files and ggml's types need the package gguf; pip install 'birdbone[gguf]'"
        ) from error
