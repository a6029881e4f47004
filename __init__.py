"""bird-bone: compress Hugging Face language models and measure what it costs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoints import Checkpoint
    from .engine import Chain, Settings, announce, in_thread, link, run, run_sync, unfinished
    from .errors import BirdboneError

__version__ = "0.1.0"

# Name to the module that defines it; each is imported on first access.
_PUBLIC = {
    "BirdboneError": ".errors",
    "Chain": ".engine",
    "Checkpoint": ".checkpoints",
    "Settings": ".engine",
    "announce": ".engine",
    "in_thread": ".engine",
    "link": ".engine",
    "run": ".engine",
    "run_sync": ".engine",
    "unfinished": ".engine",
}

__all__ = [
    "BirdboneError",
    "Chain",
    "Checkpoint",
    "Settings",
    "announce",
    "in_thread",
    "link",
    "run",
    "run_sync",
    "unfinished",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'birdbone' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
