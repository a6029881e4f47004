"""Quantisation without calibration text: round to nearest, or by bitsandbytes."""

from __future__ import annotations

from itertools import groupby
from typing import Any, cast

from torch import Tensor

from ...checkpoints import Checkpoint, Converted, Quantized, TensorRef
from ...checkpoints.coded import BitsAndBytesKind
from ...engine import announce
from ...errors import SettingError, SolverError
from ...models.blocks.device import stored_dtype
from ...models.blocks.linears import Linear, all_linears, named
from ...models.codecs.bitsandbytes import handed_over
from ...models.passes.rewriting import Solution, as_tensors
from ...solvers.float8 import round_to_float8
from ...solvers.grid_search import ScaleRule
from ...solvers.round_to_nearest import quantize_round_to_nearest
from .grids import Grids
from .settings import BITSANDBYTES
from .solve import mask_of, scale_dtype, split_experts


def one_by_one(
    checkpoint: Checkpoint, method: str, grids: Grids, packable: bool, scales: ScaleRule
) -> tuple[Checkpoint, dict[str, Any]]:
    """Quantise every chosen linear on its own; returns the checkpoint and metrics."""
    fresh: dict[str, Tensor | TensorRef] = {}
    linears = chosen_linears(checkpoint, grids, packable, method)
    done = 0
    for name, of_tensor in groupby(linears, key=lambda linear: linear.tensor):
        if method in BITSANDBYTES:
            ref = checkpoint.refs[name]
            dtype = stored_dtype(checkpoint, ref)  # what bitsandbytes is given when it is saved
            given = ref if dtype == ref.dtype else Converted(ref, dtype)
            fresh[name] = handed_over(given, cast("BitsAndBytesKind", method))
            done += len(list(of_tensor))
        else:
            solutions: dict[Linear, Solution] = {}
            for linear in of_tensor:
                solutions[linear] = _nearest(checkpoint, linear, grids, packable, scales)
            fresh.update(as_tensors(checkpoint, solutions))
            done += len(solutions)
        announce("quantising linears", done, len(linears))
    return checkpoint.evolve(fresh), {"linears": len(linears)}


def _nearest(
    checkpoint: Checkpoint, linear: Linear, grids: Grids, packable: bool, scales: ScaleRule
) -> Solution:
    weight = linear.view(checkpoint.refs[linear.tensor].load()).float()
    grid = grids.of(linear)
    dtype, mask = scale_dtype(grid, checkpoint, linear), mask_of([weight])
    try:
        if grids.is_float8:
            found = round_to_float8(
                weight, scale_dtype=dtype, mask=mask, block_size=grids.block_size
            )
            return Quantized(
                found.codes,
                found.scales,
                bits=8,
                input_activations=grids.input_activations,
                block_size=grids.block_size,
            )
        codes = quantize_round_to_nearest(
            weight,
            None,
            grid=grid,
            scale_dtype=dtype,
            mask=mask,
            scales=scales,
        )
    except SolverError as error:
        raise named(linear, error) from error
    inputs = grids.input_activations
    return split_experts(codes, [linear], packable=packable, input_activations=inputs)[0]


def fits(linear: Linear, grids: Grids, method: str) -> bool:
    """Whether the format of a method holds a linear, and loads again in plain transformers."""
    if method in BITSANDBYTES:
        return linear.plain or linear.initialised
    return grids.packs(linear)


def chosen_linears(
    checkpoint: Checkpoint, grids: Grids, packable: bool, method: str = "rtn"
) -> list[Linear]:
    """The linears to quantise: those that fit the format if any, without ignored ones.

    Raises:
        SettingError: there are none.
    """
    every = all_linears(checkpoint)
    plain = [linear for linear in every if fits(linear, grids, method) or not packable]
    if not plain:
        raise SettingError(
            f"no linear of '{checkpoint.source}' can be stored in a packed format: its weights "
            f"are like {every[0].name}{_why(every[0])}"
        )
    chosen = [linear for linear in plain if grids.quantises(linear)]
    if not chosen:
        raise SettingError(
            f"quantize(ignore={list(grids.ignored)}) leaves no linear of '{checkpoint.source}' to "
            f"quantise; remove a pattern"
        )
    return chosen


def _why(linear: Linear) -> str:
    if not linear.initialised:
        return ""
    return (
        ", whose weight transformers reads when it loads the model, and a packed one has none; use "
        "method='nf4' or 'llm.int8'"
    )
