"""quantize: put the plain linears of every block on an integer grid, or in bitsandbytes' hands."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..checkpoints import BitsAndBytes, Checkpoint, Quantized, TensorRef
from ..contexts.flow import Changed, Standing
from ..engine import announce, in_thread, link
from ..errors import SettingError, SolverError
from ..models.bitsandbytes import int8_values, nf4_values
from ..models.linears import Linear, all_linears, named
from ..models.memory import pass_bytes
from ..models.rewriting import rewrite_blocks
from ..solvers.factor import Factor, factorize
from ..solvers.gram import Gram
from ..solvers.grid import Grid
from ..solvers.results import Quantized as Codes
from ..solvers.table import QUANTIZERS

Method = Literal["auto", "gptq", "rtn", "nf4", "llm.int8"]

# From this share of zeros on, a matrix is taken to be pruned and its zeros are kept.
_MASKED = 0.01


@link
async def quantize(
    ctx: Standing,
    *,
    bits: Literal[4, 8] = 4,
    group_size: Annotated[int, Field(ge=1)] | None = 64,
    method: Method = "auto",
    damping: Annotated[float, Field(gt=0)] = 0.01,
    batch_size: Annotated[int, Field(ge=1)] = 4,
) -> Changed:
    """Store block linears as integer codes with one scale per group of input columns.

    Embeddings, head, norms and routers stay as they are; so do expert and Conv1D weights, which
    no plainly loading format holds. Zeros stay exactly zero where they are at least a hundredth
    of a matrix, which is then taken to be pruned.

    Settings:
        bits: width of a code.
        group_size: input columns that share a scale; must divide every width. null: one per row.
        method: gptq (2210.17323), needing calibration windows; rtn, round to nearest; nf4 and
            llm.int8, bitsandbytes' own, which fix bits and group size; auto is gptq where the
            context has calibration windows, else rtn, and the history says which.
        damping: what gptq adds to the Hessian, relative to its mean diagonal.
        batch_size: windows per forward.
    """
    checkpoint = ctx["checkpoint"]
    _warn_of_left(checkpoint)
    resolved = _resolve(method, "calibration" in ctx)
    grid = Grid(bits, group_size)
    errors: dict[str, float] = {}
    if resolved == "gptq":
        fresh = await in_thread(
            rewrite_blocks,
            checkpoint,
            ctx["calibration"],
            _gptq(grid, checkpoint, damping, errors),
            chosen=lambda linear: linear.plain,
            batch_size=batch_size,
            announce=lambda done, total: announce("quantising blocks", done, total),
        )
    else:
        fresh = await in_thread(_one_by_one, checkpoint, resolved, grid)
    light = checkpoint.evolve(fresh)
    metrics: dict[str, Any] = {"method": resolved, "linears": len(fresh), "bytes": light.num_bytes}
    if errors:
        metrics["mean_relative_error"] = sum(errors.values()) / len(errors)
    return {"checkpoint": light, "metrics": metrics}


def _resolve(method: Method, calibrated: bool) -> Method:
    if method == "auto":
        return "gptq" if calibrated else "rtn"
    if method == "gptq" and not calibrated:
        raise SettingError(
            "quantize(method='gptq') needs 'calibration'; calibrate() provides it, or use "
            "method='rtn'"
        )
    return method


def _gptq(grid: Grid, checkpoint: Checkpoint, damping: float, errors: dict[str, float]) -> Any:
    def solve(weights: Sequence[tuple[Linear, Tensor]], gram: Gram) -> Mapping[Linear, Quantized]:
        solved = {}
        factor: Factor | None = None
        for linear, weight in weights:
            try:
                factor = factor or factorize(gram, damping=damping)
                codes = QUANTIZERS["gptq"](
                    weight,
                    gram,
                    grid=grid,
                    scale_dtype=checkpoint.refs[linear.tensor].dtype,
                    mask=_mask(weight),
                    factor=factor,
                )
            except SolverError as error:
                raise named(linear, error) from error
            errors[linear.name] = codes.relative_error or 0.0
            solved[linear] = _ref(codes)
        return solved

    return solve


def _one_by_one(
    checkpoint: Checkpoint, method: Method, grid: Grid
) -> dict[str, Tensor | TensorRef]:
    """Methods that look at no data: each linear by itself."""
    fresh: dict[str, Tensor | TensorRef] = {}
    linears = _plain_linears(checkpoint)
    for done, linear in enumerate(linears, 1):
        ref = checkpoint.refs[linear.tensor]
        if method == "nf4":
            fresh[linear.tensor] = BitsAndBytes(ref, nf4_values(ref.load()), kind="nf4")
        elif method == "llm.int8":
            fresh[linear.tensor] = BitsAndBytes(ref, int8_values(ref.load()), kind="llm.int8")
        else:
            weight = ref.load().float()
            mask = _mask(weight)
            try:
                codes = QUANTIZERS["rtn"](weight, None, grid=grid, scale_dtype=ref.dtype, mask=mask)
            except SolverError as error:
                raise named(linear, error) from error
            fresh[linear.tensor] = _ref(codes)
        announce("quantising linears", done, len(linears))
    return fresh


def _ref(codes: Codes) -> Quantized:
    return Quantized(
        codes.codes.cpu(),
        codes.scales.cpu(),
        bits=codes.grid.bits,
        zero_points=None if codes.zero_points is None else codes.zero_points.cpu(),
    )


def _mask(weight: Tensor) -> Tensor | None:
    kept = weight != 0
    return kept if float(kept.double().mean()) <= 1 - _MASKED else None


def _warn_of_left(checkpoint: Checkpoint) -> None:
    left = sorted({each.tensor for each in all_linears(checkpoint) if not each.plain})
    if left:
        warnings.warn(
            f"quantize leaves {len(left)} tensors as they are, such as '{left[0]}': no format that "
            f"loads plainly holds them",
            stacklevel=2,
        )


def _plain_linears(checkpoint: Checkpoint) -> list[Linear]:
    every = all_linears(checkpoint)
    plain = [linear for linear in every if linear.plain]
    if not plain:
        raise SettingError(
            f"no linear of '{checkpoint.source}' is a plain one that a packed format can hold; "
            f"its weights are {every[0].name} and the like"
        )
    return plain


@quantize.foresee
def _fits(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """What cannot be stored is refused before any work, naming layer and width."""
    given = settings["method"] in ("nf4", "llm.int8")
    if given:
        nf4_values(torch.ones(1, 64))  # is it usable here at all?
    checkpoint: Checkpoint | None = ctx.get("checkpoint")
    if checkpoint is None:
        return
    grid = None if given else Grid(settings["bits"], settings["group_size"])
    for linear in _plain_linears(checkpoint):
        if isinstance(checkpoint.refs[linear.tensor], Quantized | BitsAndBytes):
            raise SettingError(f"layer '{linear.name}' is quantised already; quantise once")
        if grid is not None:
            _check_width(linear, grid)


def _check_width(linear: Linear, grid: Grid) -> None:
    try:
        grid.group_width(linear.shape[1])
    except SettingError as error:
        raise named(linear, error) from error


@quantize.memory
def _need(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    windows = ctx.get("calibration")
    if windows is None or settings["method"] not in ("auto", "gptq"):
        return 0
    return pass_bytes(ctx["checkpoint"], windows, settings["batch_size"], grams=True)
