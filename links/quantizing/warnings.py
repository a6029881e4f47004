"""What quantize says of what was asked and is not done: settings, and weights left as they are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ...checkpoints import Checkpoint
from ...formats.ggml_blocks import kind_of_grid
from ...models.blocks.linears import all_linears
from ...solvers.grid import Grid
from .solve import fitting_grid

_TUNED = ("signround",)
CALIBRATED = ("gptq", "signround")
"""Methods that look at what flows into the linears."""

_ON_A_GRID = (*CALIBRATED, "rtn")

_USERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bits": _ON_A_GRID,
        "group_size": _ON_A_GRID,
        "symmetric": _ON_A_GRID,
        "signed": _ON_A_GRID,
        "grid": _ON_A_GRID,
        "scales": _ON_A_GRID,
        "order": CALIBRATED,
        "refit": CALIBRATED,
        "sweeps": CALIBRATED,
        "matching": CALIBRATED,
        "damping": CALIBRATED,
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
        users = _USERS[name]
        why = ""
        if method not in users:
            why = f"by method '{method}', only by {', '.join(map(repr, users))}"
        elif grid != "int" and name in _FIXED_BY_A_GRID:
            why = f"with grid '{grid}', which fixes it"
        if why:
            warnings.warn(f"quantize({name}={value!r}) is not used {why}", stacklevel=3)


def warn_of_left(checkpoint: Checkpoint, packable: bool, grid: Grid) -> None:
    """Say what will not become lighter, or not as asked: weights left as they are, or all."""
    if kind_of_grid(grid):
        _warn_of_stand_ins(checkpoint, grid)
        return
    if not packable:
        warnings.warn(
            "quantize stores the values its codes stand for: nothing written here packs zero "
            "points, so the saved folder gets no smaller; symmetric=True with grid='int' does",
            stacklevel=3,
        )
        return
    left = sorted({each.tensor for each in all_linears(checkpoint) if not each.plain})
    if left:
        warnings.warn(
            f"quantize leaves {len(left)} tensors as they are, such as '{left[0]}': no format that "
            f"loads plainly holds them",
            stacklevel=2,
        )


def _warn_of_stand_ins(checkpoint: Checkpoint, grid: Grid) -> None:
    linears = all_linears(checkpoint)
    others = [linear.name for linear in linears if fitting_grid(grid, linear) != grid]
    if others:
        warnings.warn(
            f"quantize puts {len(others)} linears, such as '{others[0]}', on q5_0: super-blocks of "
            f"{grid.super_block} do not divide their width",
            stacklevel=4,
        )
    experts = sorted({linear.tensor for linear in linears if linear.expert is not None})
    if experts:
        warnings.warn(
            f"quantize stores the values its codes stand for of {len(experts)} tensors of experts, "
            f"such as '{experts[0]}': nothing written here packs them",
            stacklevel=4,
        )
