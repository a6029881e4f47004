"""bird-bone: Hugging Face language models made lighter, plainly loading, with the price stated."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoints import Checkpoint
    from .engine import Chain, announce, in_thread, link, run, unfinished
    from .errors import BirdboneError

__version__ = "0.1.0"

# Name to the module that has it: nothing is imported before it is asked for.
_PUBLIC = {
    "BirdboneError": ".errors",
    "Chain": ".engine",
    "Checkpoint": ".checkpoints",
    "announce": ".engine",
    "in_thread": ".engine",
    "link": ".engine",
    "run": ".engine",
    "unfinished": ".engine",
}

__all__ = [
    "BirdboneError",
    "Chain",
    "Checkpoint",
    "announce",
    "in_thread",
    "link",
    "run",
    "unfinished",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'birdbone' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
