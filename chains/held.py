"""How much memory a context holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checkpoints import Checkpoint
from ..contexts.verdict import Reference
from ..models.outline import held_bytes


def context_bytes(*contexts: Mapping[str, Any]) -> int:
    """Bytes in memory of the models and hidden states of contexts, what they share counted once."""
    values = {id(value): value for ctx in contexts for value in ctx.values()}.values()
    models = held_bytes(*(value for value in values if isinstance(value, Checkpoint)))
    kept = [value.hidden for value in values if isinstance(value, Reference)]
    return models + sum(hidden.numel() * hidden.itemsize for hidden in kept)
