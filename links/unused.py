"""What quantize says of settings that were given for nothing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_TUNED = ("signround",)
_CALIBRATED = ("gptq", "signround")
_ON_A_GRID = (*_CALIBRATED, "rtn")

_USERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bits": _ON_A_GRID,
        "group_size": _ON_A_GRID,
        "symmetric": _ON_A_GRID,
        "signed": _ON_A_GRID,
        "grid": _ON_A_GRID,
        "scales": _ON_A_GRID,
        "order": _CALIBRATED,
        "refit": _CALIBRATED,
        "sweeps": _CALIBRATED,
        "matching": _CALIBRATED,
        "damping": _CALIBRATED,
        "rank": ("gptq",),
        "iterations": _TUNED,
        "seed": _TUNED,
    }
)
"""By setting: the methods that use it."""

_FIXED_BY_A_GRID = ("bits", "group_size", "symmetric", "signed")


def warn_of_unused(method: str, grid: str, given: Mapping[str, Any]) -> None:
    """Say which of the settings given, all that are not at their default, do nothing."""
    for name, value in given.items():
        users = _USERS.get(name, (method,))
        why = ""
        if method not in users:
            why = f"by method '{method}', only by {', '.join(map(repr, users))}"
        elif grid != "int" and name in _FIXED_BY_A_GRID:
            why = f"with grid '{grid}', which fixes it"
        if why:
            warnings.warn(f"quantize({name}={value!r}) is not used {why}", stacklevel=3)
