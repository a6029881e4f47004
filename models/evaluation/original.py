"""The model that a saved one was made from, by its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...checkpoints import Checkpoint
from ..reading.opening import open_checkpoint
from ..reading.sources import find_model

_DTYPES = {
    str(each).removeprefix("torch."): each
    for each in (torch.float32, torch.bfloat16, torch.float16)
}


def recorded_steps(facts: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The steps of a record; None if they are not a list of records."""
    steps = facts.get("steps")
    whole = isinstance(steps, list) and all(isinstance(step, Mapping) for step in steps)
    return steps if whole else None


def named_original(facts: Mapping[str, Any]) -> str | None:
    """The name that the recorded step ``load`` was given; None if there is none.

    A folder or file is named by its last component alone, since records hold no paths.
    """
    name = _load_settings(facts).get("model")
    return name if isinstance(name, str) else None


def open_original(
    facts: Mapping[str, Any], source: str, *, trust_remote_code: bool = False
) -> Checkpoint:
    """Open the source as the recorded step ``load`` did.

    Raises:
        ModelError: it cannot be found or read.
    """
    settings = _load_settings(facts)
    return open_checkpoint(
        find_model(source),
        dtype=_DTYPES.get(str(settings.get("dtype", "auto"))),
        trust_remote_code=trust_remote_code,
        dequantize=bool(settings.get("dequantize", True)),
    )


def _load_settings(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    loads = [step for step in recorded_steps(facts) or () if step.get("link") == "load"]
    settings = loads[0].get("settings") if loads else None
    return settings if isinstance(settings, Mapping) else {}
