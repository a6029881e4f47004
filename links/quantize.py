"""quantize: put the plain linears of every block on an integer grid, or in bitsandbytes' hands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from ..checkpoints import Checkpoint, Coded, TensorRef
from ..contexts.flow import Changed, Standing
from ..contexts.forecast import Forecast
from ..engine import in_thread, link
from ..errors import SettingError
from ..models.blocks.linears import Linear, named
from ..models.codecs.bitsandbytes import check_nf4_shape, nf4_values
from ..models.passes.tuning import Tuning
from ..models.planning.effort import SolverWork, num_blocks, rewriting
from ..models.planning.memory import pass_bytes
from ..models.planning.outline import exchanged
from ..solvers.gptq import Order
from ..solvers.grid import Grid
from ..solvers.grid_search import ScaleRule
from .quantizing.calibrated import round_by_text
from .quantizing.forecast import handed_over, on_grid
from .quantizing.low_rank import Correcting, check_rank
from .quantizing.solve import BlockTuning, Rounding, fitting_grid
from .quantizing.uncalibrated import BITSANDBYTES, chosen_linears, one_by_one, packs_codes
from .quantizing.warnings import CALIBRATED, warn_of_left, warn_of_unused

Method = Literal["auto", "gptq", "signround", "rtn", "nf4", "nf4.single", "llm.int8"]
GridName = Literal["int", "q4_0", "q5_0", "q8_0", "q4_k"]

# What they make up for of earlier blocks' changes; measured best of 0 and 0.5 on whole models.
_MATCHING = 0.5

# What gptq takes of a block, each of its sweeps, and a correction beside it.
_WORK, _SWEEP, _CORRECTION = SolverWork(1.2, 5.0), SolverWork(0.0, 2.0), SolverWork(7.0, 0.0)


@link
async def quantize(
    ctx: Standing,
    *,
    bits: Annotated[int, Field(ge=2, le=8)] = 4,
    group_size: Annotated[int, Field(ge=1)] | Literal["auto"] | None = 64,
    symmetric: bool = True,
    signed: bool | None = None,
    grid: GridName = "int",
    method: Method = "auto",
    order: Order = "static",
    scales: ScaleRule | None = None,
    refit: bool = False,
    sweeps: Annotated[int, Field(ge=0)] = 0,
    matching: Annotated[float, Field(ge=0, le=1)] | None = None,
    damping: Annotated[float, Field(gt=0)] = 0.01,
    rank: Annotated[int, Field(ge=0)] = 0,
    iterations: Annotated[int, Field(ge=1)] = 200,
    seed: int = 0,
    batch_size: Annotated[int, Field(ge=1)] = 4,
) -> Changed:
    """Store block linears as integer codes with one scale per group of input columns.

    Embeddings, head, norms and routers stay as they are; so do expert and Conv1D weights where the
    codes are to be packed, which no plainly loading format does for them. Codes with zero points
    are not packed either: the values they stand for are stored, with a warning. Those on ggml's
    grids are its blocks, which a GGUF file takes as they are; any other folder is given their
    values.

    After prune it is the joint setting: where at least a hundredth of a matrix is zero it is taken
    to be pruned, its zeros stay exactly zero whatever the method, and gptq rounds the survivors
    alone, on scales fitted to them, and lets them make up for each other's rounding. Given the
    mask, that is the joint problem: prune leaves nearly the best values on it, and what rounding
    adds to the error then adds up with what pruning cost (docs/log.md).

    Settings:
        bits: width of a code.
        group_size: input columns that share a scale; must divide every width. auto: for each layer
            the largest of 128, 64, 32 and 16 that divides its width, else one per row, which null
            gives every layer; widths of 576 and 1536 get 64 and 128.
        symmetric: no zero points; the only codes that are packed.
        signed: scales of symmetric codes may be negative, which puts the one code more that there
            is below zero on the side of the greater extreme, at no byte's cost; not tried in vLLM.
            Where not said, so it is for gptq and signround, and not for rtn.
        grid: int, as the settings above say; or q4_0, q5_0, q8_0, q4_k, ggml's, which fix them all.
            Widths that q4_k's 256 do not divide take q5_0, as llama.cpp does.
        method: gptq (2210.17323), needing calibration windows; signround (2309.05516), which goes
            on from gptq and tunes all codes of a block by gradients, far slower; rtn, round to
            nearest; nf4 and llm.int8, bitsandbytes' own, which fix bits and group size, nf4 with
            its scales in 8 bits too, nf4.single with scales of float32; auto is gptq where the
            context has calibration windows, else rtn, and the history says which.
        order: gptq settles columns by falling input energy (static) or as they stand (natural).
        scales: searched for the least error, or minmax, set by the extremes; where none is given
            searched for gptq, minmax for rtn.
        refit: fit gptq's scales once more to its codes, by the whole Hessian.
        sweeps: passes of coordinate descent over gptq's codes.
        matching: share of what quantised blocks before it changed that a linear makes up for, so
            that it gives what it gave in the model as it came (2504.02692); costs a third run of
            every block; less is taken where there are fewer than 20 tokens for every input. Where
            none is given 0.5 for gptq and signround, which alone can.
        damping: what gptq adds to the Hessian, relative to its mean diagonal.
        rank: of a correction found for each linear beside gptq's codes, which are as without it:
            what they leave of its output, as far as the rank goes (2410.21271). It is saved as a
            LoRA adapter in the folder adapter/ of the model, for PEFT to put on; the model loads,
            and is measured, without. It lies over zeros too: with it on, no weight is pruned.
        iterations: of signround, per block, on batch_size windows each.
        seed: of the order signround takes the windows in.
        batch_size: windows per forward.
    """
    checkpoint = ctx["checkpoint"]
    resolved = _resolve(method, "calibration" in ctx)
    settings = {
        "bits": bits,
        "group_size": group_size,
        "symmetric": symmetric,
        "signed": signed,
        "grid": grid,
        "scales": scales,
        "order": order,
        "refit": refit,
        "sweeps": sweeps,
        "matching": matching or None,
        "damping": damping,
        "rank": rank,
        "iterations": iterations,
        "seed": seed,
    }
    fields = quantize.schema.model_fields
    given = {name: each for name, each in settings.items() if each != fields[name].default}
    warn_of_unused(resolved, grid, given)
    if signed is None:
        signed = resolved in CALIBRATED
    wanted = _grid({**settings, "signed": signed})
    packable = packs_codes(settings) or resolved in BITSANDBYTES
    warn_of_left(checkpoint, packable, wanted)
    if resolved in CALIBRATED:
        rounding = Rounding(
            checkpoint=checkpoint,
            grid=wanted,
            packable=packable,
            damping=damping,
            order=order,
            scales=scales or "searched",
            refit=refit,
            sweeps=sweeps,
            matching=_matching(matching),
            correcting=Correcting(rank, damping) if rank else None,
        )
        tuning = None
        if resolved == "signround":
            tuning = BlockTuning(Tuning(iterations=iterations, batch_size=batch_size, seed=seed))
        light, told = await round_by_text(ctx["calibration"], rounding, tuning, batch_size)
    else:
        light, told = await in_thread(
            one_by_one, checkpoint, resolved, wanted, packable, scales or "minmax"
        )
    metrics = {"method": resolved, **told, "bytes": light.num_bytes, "shrinks": packable}
    return {"checkpoint": light, "metrics": metrics}


def _grid(settings: Mapping[str, Any]) -> Grid:
    if settings["grid"] != "int":
        return Grid.named(settings["grid"])
    symmetric = settings["symmetric"]
    signed = bool(settings["signed"] and symmetric)
    return Grid(settings["bits"], settings["group_size"], symmetric, signed=signed)


def _resolve(method: Method, calibrated: bool) -> Method:
    if method == "auto":
        return "gptq" if calibrated else "rtn"
    if method in CALIBRATED and not calibrated:
        raise SettingError(
            f"quantize(method='{method}') needs 'calibration'; calibrate() provides it, or use "
            "method='rtn'"
        )
    return method


def _matching(given: float | None) -> float:
    return _MATCHING if given is None else given


@quantize.foresee
def _fits(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """What cannot be stored is refused before any work, naming layer and width."""
    if settings["method"] == "signround" and not packs_codes(settings):
        raise SettingError(
            "quantize(method='signround') tunes codes that can be packed; set symmetric=True and "
            "grid='int', or use method='gptq'"
        )
    if settings["rank"] and (settings["method"] == "signround" or not packs_codes(settings)):
        raise SettingError(
            "quantize(rank=...) corrects codes that are packed and stay as gptq leaves them; set "
            "method='gptq', symmetric=True and grid='int', or rank=0"
        )
    given = settings["method"] in BITSANDBYTES
    if given:
        nf4_values(torch.ones(32, 64))  # is it usable here at all?
    checkpoint: Checkpoint | None = ctx.get("checkpoint")
    if checkpoint is None:
        return
    grid = None if given else _grid(settings)
    for linear in chosen_linears(checkpoint, given or packs_codes(settings)):
        if isinstance(checkpoint.refs[linear.tensor], Coded):
            raise SettingError(f"layer '{linear.name}' is quantised already; quantise once")
        _check_shape(linear, grid, settings["method"])
        check_rank(linear, settings["rank"])


def _check_shape(linear: Linear, grid: Grid | None, method: Method) -> None:
    try:
        if grid is not None:
            fitting_grid(grid, linear).group_width(linear.shape[1])
        elif method in ("nf4", "nf4.single"):
            check_nf4_shape(linear.shape)
    except SettingError as error:
        raise named(linear, error) from error


@quantize.memory
def _need(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    windows = ctx.get("calibration")
    if windows is None or settings["method"] not in ("auto", *CALIBRATED):
        return 0
    paired = _matching(settings["matching"]) > 0 or settings["method"] == "signround"
    checkpoint: Checkpoint = ctx["checkpoint"]
    passed = pass_bytes(checkpoint, windows, settings["batch_size"], grams=True, paired=paired)
    return passed + _fresh_bytes(checkpoint, packs_codes(settings))


def _fresh_bytes(checkpoint: Checkpoint, packable: bool) -> int:
    """Codes of a byte each, or values, which stay in memory until the last block is done."""
    values = sum(each.shape[0] * each.shape[1] for each in chosen_linears(checkpoint, packable))
    return values if packable else values * checkpoint.num_bytes // checkpoint.num_parameters


@quantize.forecast
def _foretell(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> Forecast:
    """Codes in place of weights; one pass where text is looked at, and for signround its training.

    Each of its iterations takes a forward and two backward of batch_size windows.
    """
    checkpoint: Checkpoint = ctx["checkpoint"]
    method = _resolve(settings["method"], "calibration" in ctx)
    light = exchanged(checkpoint, _outline(checkpoint, settings, method))
    if method not in CALIBRATED:
        return Forecast(adds={"checkpoint": light}, moved_bytes=8 * checkpoint.num_parameters)
    tuned = method == "signround"
    work = rewriting(
        checkpoint,
        ctx["calibration"],
        paired=_matching(settings["matching"]) > 0 or tuned,
        solver=_WORK.and_more(settings["sweeps"], _SWEEP).and_more(
            int(bool(settings["rank"])), _CORRECTION
        ),
    )
    if tuned:
        steps = 3 * settings["iterations"] * settings["batch_size"]
        work["block_passes"] += num_blocks(checkpoint) * steps
    return Forecast(adds={"checkpoint": light}, **work)


def _outline(
    checkpoint: Checkpoint, settings: Mapping[str, Any], method: Method
) -> Mapping[str, TensorRef]:
    """What would stand in the place of each weight."""
    if method in ("nf4", "nf4.single", "llm.int8"):
        return handed_over(checkpoint, method)
    return on_grid(checkpoint, _grid(settings), packable=packs_codes(settings))
