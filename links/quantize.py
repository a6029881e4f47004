"""quantize: store the linears of every block as integers, or prepare them for bitsandbytes."""

from __future__ import annotations

import torch

from ..checkpoints import Checkpoint, Coded
from ..contexts.flow import Changed, Partial, WithModel
from ..engine import in_thread, link
from ..errors import SettingError
from ..models.blocks.linears import Linear, all_linears, named
from ..models.codecs.bitsandbytes import check_nf4_shape, nf4_values
from ..models.passes.tuning import Tuning
from ..solvers.grid import Grid
from .quantizing.allocated import allocated, check_undecided, require_settled
from .quantizing.calibrated import round_by_text
from .quantizing.embeddings import chosen_embeddings, round_embeddings
from .quantizing.experts import check_experts
from .quantizing.float4 import check_float4, with_units
from .quantizing.forecast import quantize_forecast
from .quantizing.ggml_tables import chosen_tables, round_tables
from .quantizing.grids import Grids, check_overrides, check_patterns, grids_of
from .quantizing.input_activations import check_float8, check_input_activations, check_widths
from .quantizing.low_rank import Correcting, check_rank
from .quantizing.settings import (
    BITSANDBYTES,
    CALIBRATED,
    PACKED_GRIDS,
    QuantizeMethod,
    QuantizeSettings,
    packs_codes,
    resolved,
)
from .quantizing.solve import BlockTuning, Rounding
from .quantizing.uncalibrated import chosen_linears, one_by_one
from .quantizing.warnings import warn_of_left, warn_of_unused


@link(QuantizeSettings)
async def quantize(ctx: WithModel, settings: QuantizeSettings) -> Changed:
    """Store the linears of every block as integers with one scale per group of input columns.

    Or as float8 with one scale per row or block, or as 4-bit floats (mxfp4, nvfp4); inputs can be
    rounded too (``input_activations``).

    Norms and routers are not quantised; embeddings and head only with ``embedding_bits``, or with
    ``embedding_grid`` and ``head_grid`` for a GGUF file. Experts are packed one by one, all on one
    grid, if files of the architecture hold them so (Mixtral, Qwen3-MoE, DeepSeek-V3). Other experts
    (GPT-OSS, Llama 4) and Conv1D weights are not quantised if the integers are to be packed, since
    no format that loads in plain transformers holds them.
    Weights with zero points are not packed: their dequantised values are stored, with a warning.
    After allocate, bits and group size of every linear and of the embedding are those of the
    allocation.
    Weights on a grid of ggml are stored as its blocks in a GGUF file, and as dequantised values in
    any other folder.

    Pruned weights stay zero: a matrix with at least one zero in a hundred weights is taken to be
    pruned, its zeros are kept with every method, and gptq fits scales and compensates on the
    remaining weights only. Given the mask, this is the joint problem of pruning and quantising
    (docs/log.md).
    """
    checkpoint = ctx["checkpoint"]
    asked = settings
    require_settled(ctx.get("allocation"))
    settings = allocated(settings, checkpoint, ctx.get("allocation"))
    settings = resolved(settings, calibrated="calibration" in ctx)
    warn_of_unused(asked, settings.method)
    grids = grids_of(settings, all_linears(checkpoint))
    grids = await in_thread(with_units, grids, checkpoint)
    packable = packs_codes(settings) or settings.method in BITSANDBYTES
    warn_of_left(checkpoint, packable, grids, settings.method)
    if settings.method in CALIBRATED:
        light, found = await round_by_text(
            ctx["calibration"],
            _rounding(checkpoint, settings, grids),
            _tuning(settings),
            settings.batch_size,
        )
    else:
        light, found = await in_thread(
            one_by_one, checkpoint, settings.method, grids, packable, settings.scales or "minmax"
        )
    if settings.embedding_bits is not None:
        light, more = await in_thread(round_embeddings, light)
        found = {**found, **more}
    if tables := chosen_tables(checkpoint, settings):
        light, more = await in_thread(round_tables, light, tables)
        found = {**found, **more}
    metrics = {
        "method": settings.method,
        **found,
        "bytes": light.num_bytes,
        "shrinks": packable,
    }
    return {"checkpoint": light, "metrics": metrics}


def _rounding(checkpoint: Checkpoint, settings: QuantizeSettings, grids: Grids) -> Rounding:
    return Rounding(
        checkpoint=checkpoint,
        grids=grids,
        packable=packs_codes(settings),
        damping=settings.damping,
        order=settings.order,
        scales=settings.scales or "searched",
        refit=settings.refit,
        sweeps=settings.sweeps,
        matching=settings.matching or 0.0,
        correcting=Correcting(settings.rank, settings.damping) if settings.rank else None,
    )


def _tuning(settings: QuantizeSettings) -> BlockTuning | None:
    if settings.method != "signround":
        return None
    return BlockTuning(
        Tuning(iterations=settings.iterations, batch_size=settings.batch_size, seed=settings.seed)
    )


@quantize.on_every_rank
def _on_every_rank(settings: QuantizeSettings) -> bool:
    """Windows and linears are divided in the pass of gptq; the method may be chosen by the text."""
    return settings.method in ("auto", "gptq")


@quantize.check
def _check(ctx: Partial, settings: QuantizeSettings) -> None:
    """Settings that contradict each other, and weights that cannot be stored, by layer."""
    packs = packs_codes(settings) or settings.grid == "allocated"
    if settings.method == "signround" and not packs:
        raise SettingError(
            "quantize(method='signround') needs integers that can be packed; set symmetric=True "
            "and grid='int', or use method='gptq'"
        )
    if settings.rank and (settings.method == "signround" or settings.grid == "fp8" or not packs):
        raise SettingError(
            "quantize(rank=...) corrects packed integers of gptq; set method='gptq', "
            "symmetric=True and grid='int', or rank=0"
        )
    prepared = settings.method in BITSANDBYTES
    check_float8(settings)
    check_float4(settings, ctx.get("checkpoint"))
    check_input_activations(
        settings, is_allocated="allocation" in ctx or settings.grid == "allocated"
    )
    _check_embedding_bits(settings)
    if prepared:
        nf4_values(torch.ones(32, 64))  # fails if bitsandbytes cannot be used here
    if "allocation" in ctx:
        check_undecided(settings, ctx["allocation"])
    check_overrides(settings)
    checkpoint = ctx.get("checkpoint")
    if checkpoint is None or (settings.grid == "allocated" and "allocation" not in ctx):
        return
    settings = allocated(settings, checkpoint, ctx.get("allocation"))
    if settings.embedding_bits is not None:
        chosen_embeddings(checkpoint)
    chosen_tables(checkpoint, settings)
    every = all_linears(checkpoint)
    grids = grids_of(settings, every)
    check_patterns(settings, every)
    chosen = chosen_linears(checkpoint, grids, prepared or packs_codes(settings), settings.method)
    check_experts(every, chosen, grids)
    check_widths(checkpoint, settings, chosen)
    for linear in chosen:
        if isinstance(checkpoint.refs[linear.tensor], Coded):
            raise SettingError(f"layer '{linear.name}' is quantised already; quantise once")
        _check_shape(linear, None if prepared else grids.of(linear), settings.method)
        check_rank(linear, settings.rank)


def _check_embedding_bits(settings: QuantizeSettings) -> None:
    for name in ("embedding_grid", "head_grid"):
        if getattr(settings, name) is not None and settings.grid in PACKED_GRIDS:
            raise SettingError(
                f"quantize({name}='{getattr(settings, name)}') is stored beside linears on a grid "
                f"of ggml; set grid too, or use embedding_bits=8"
            )
    if settings.embedding_bits is not None and not packs_codes(settings):
        raise SettingError(
            "quantize(embedding_bits=8) is stored beside packed integers or floats; set "
            "symmetric=True and grid='int', 'fp8', 'mxfp4' or 'nvfp4', or leave embedding_bits "
            "unset"
        )
    if settings.embedding_bits is not None and settings.method in BITSANDBYTES:
        raise SettingError(
            f"quantize(embedding_bits=8, method='{settings.method}'): bitsandbytes stores linears "
            "only; use method='gptq' or 'rtn', or leave embedding_bits unset"
        )


def _check_shape(linear: Linear, grid: Grid | None, method: QuantizeMethod) -> None:
    try:
        if grid is not None:
            grid.group_width(linear.shape[1])
        elif method in ("nf4", "nf4.single"):
            check_nf4_shape(linear.shape)
    except SettingError as error:
        raise named(linear, error) from error


quantize.forecast(quantize_forecast)
