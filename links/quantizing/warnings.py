"""Warnings of quantize: settings that are not used, and weights that are not quantised."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ...checkpoints import Checkpoint
from ...engine import changed
from ...formats.ggml_blocks import kind_of_grid
from ...models.blocks.device import stored_dtype
from ...models.blocks.linears import all_linears
from ...solvers.grid import Grid
from .grids import Grids, fitting_grid
from .settings import CALIBRATED, QuantizeSettings
from .uncalibrated import fits

_TUNED = ("signround",)

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
        "overrides": _ON_A_GRID,
        "embedding_bits": _ON_A_GRID,
        "embedding_grid": _ON_A_GRID,
        "head_grid": _ON_A_GRID,
        "input_activations": _ON_A_GRID,
        "block_size": _ON_A_GRID,
    }
)
"""By setting: the methods that use it."""

_FIXED_BY_A_GRID = ("bits", "group_size", "symmetric", "signed")


def warn_of_unused(settings: QuantizeSettings, method: str) -> None:
    """Warn of settings that differ from their default and that the method does not use."""
    for name, value in changed(settings).items():
        users = _USERS.get(name, (method,))
        why = ""
        if method not in users and (name, value) != ("matching", 0):
            why = f"by method '{method}', only by {', '.join(map(repr, users))}"
        elif settings.grid != "int" and name in _FIXED_BY_A_GRID:
            why = f"with grid '{settings.grid}', which fixes it"
        if why:
            warnings.warn(f"quantize({name}={value!r}) is not used {why}", stacklevel=3)


def warn_of_left(checkpoint: Checkpoint, packable: bool, grids: Grids, method: str) -> None:
    """Warn of weights that will not be smaller, or are quantised differently than asked."""
    if kind_of_grid(grids.common):
        _warn_of_stand_ins(checkpoint, grids.common)
        return
    if not packable:
        warnings.warn(
            "quantize stores dequantised values: no format written here packs zero points, so the "
            "saved folder gets no smaller; symmetric=True with grid='int' does",
            stacklevel=3,
        )
        return
    left = sorted(
        {each.tensor for each in all_linears(checkpoint) if not fits(each, grids, method)}
    )
    if left:
        warnings.warn(
            f"quantize does not quantise {len(left)} tensors, such as '{left[0]}': no format that "
            f"loads in plain transformers holds them{_wider(checkpoint, left)}",
            stacklevel=2,
        )


def _wider(checkpoint: Checkpoint, left: Sequence[str]) -> str:
    """What to do where dequantised values take more bytes than the model is said to have."""
    dtype = str(checkpoint.config.get("dtype"))
    refs = [checkpoint.refs[name] for name in left]
    wide = [ref for ref in refs if stored_dtype(checkpoint, ref) != ref.dtype]
    if not wide:
        return ""
    size = sum(ref.num_bytes for ref in wide)
    return (
        f"; {len(wide)} of them stay the float32 values they were read as ({size:,} bytes), "
        f"although the model is {dtype}: load(dtype='{dtype}') rounds them, to half the bytes"
    )


def _warn_of_stand_ins(checkpoint: Checkpoint, grid: Grid) -> None:
    linears = all_linears(checkpoint)
    others = [linear for linear in linears if fitting_grid(grid, linear) != grid]
    if others:
        instead = kind_of_grid(fitting_grid(grid, others[0]))
        warnings.warn(
            f"quantize uses {instead} for {len(others)} linears, such as '{others[0].name}': "
            f"super-blocks of {grid.super_block} do not divide their width",
            stacklevel=4,
        )
    experts = sorted({linear.tensor for linear in linears if linear.expert is not None})
    if experts:
        warnings.warn(
            f"quantize stores dequantised values for {len(experts)} tensors of experts, such as "
            f"'{experts[0]}': no format written here packs them",
            stacklevel=4,
        )
