"""The cost of quantize, and what it stores in place of each weight, in outline."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...checkpoints import BitsAndBytes, Checkpoint, TensorRef
from ...checkpoints.coded import BitsAndBytesKind
from ...contexts.flow import WithModel
from ...contexts.forecast import Forecast
from ...formats.ggml_blocks import kind_of_grid
from ...models.blocks.linears import Linear, all_linears
from ...models.planning.effort import SolverWork, num_blocks, remade, rewriting
from ...models.planning.memory import pass_bytes
from ...models.planning.outline import exchanged, outlined_blocks, outlined_codes
from ...solvers.float4 import float4_name
from .allocated import allocated
from .embeddings import outlined_embeddings
from .ggml_tables import chosen_tables, outlined_tables
from .grids import Grids, grids_of
from .settings import CALIBRATED, QuantizeSettings, packs_codes, resolved
from .solve import scale_dtype
from .uncalibrated import chosen_linears

# Work of gptq on the linears of one block, of each of its sweeps, and of a low-rank correction.
_WORK, _SWEEP, _CORRECTION = SolverWork(1.2, 5.0), SolverWork(0.0, 2.0), SolverWork(7.0, 0.0)


def quantize_forecast(ctx: WithModel, settings: QuantizeSettings) -> Forecast:
    """Integers in place of weights; for calibrated methods one pass over the blocks.

    Each iteration of signround adds one forward and two backward passes of batch_size windows.
    """
    checkpoint, windows = ctx["checkpoint"], ctx.get("calibration")
    settings = allocated(settings, checkpoint, ctx.get("allocation"))
    settings = resolved(settings, calibrated=windows is not None)
    grids = grids_of(settings, all_linears(checkpoint))
    light = exchanged(checkpoint, _outline(checkpoint, settings, grids))
    if settings.method not in CALIBRATED or windows is None:
        return Forecast(adds={"checkpoint": light}, moved_bytes=8 * checkpoint.num_parameters)
    tuned = settings.method == "signround"
    paired = bool(settings.matching) or tuned
    work = rewriting(
        checkpoint,
        windows,
        paired=paired,
        solver=_WORK.and_more(settings.sweeps, _SWEEP).and_more(
            int(bool(settings.rank)), _CORRECTION
        ),
    )
    if tuned:
        steps = 3 * settings.iterations * settings.batch_size
        work["block_passes"] += num_blocks(checkpoint) * steps
    passed = pass_bytes(checkpoint, windows, settings.batch_size, grams=True, paired=paired)
    return Forecast(
        adds={"checkpoint": light},
        memory_bytes=passed + _fresh_bytes(checkpoint, grids, packs_codes(settings)),
        **work,
    )


def _fresh_bytes(checkpoint: Checkpoint, grids: Grids, packable: bool) -> int:
    """Integers of a byte each, or values, in memory until the last block is done."""
    values = sum(
        each.shape[0] * each.shape[1] for each in chosen_linears(checkpoint, grids, packable)
    )
    return values if packable else values * checkpoint.num_bytes // checkpoint.num_parameters


def _outline(
    checkpoint: Checkpoint, settings: QuantizeSettings, grids: Grids
) -> Mapping[str, TensorRef]:
    """What is stored in place of each weight, without values."""
    if settings.method in ("nf4", "nf4.single", "llm.int8"):
        return _for_bitsandbytes(checkpoint, grids, settings.method)
    made = _on_grids(checkpoint, grids, packable=packs_codes(settings))
    tables = outlined_tables(checkpoint, chosen_tables(checkpoint, settings))
    if settings.embedding_bits is not None:
        tables = outlined_embeddings(checkpoint)
    return {**made, **tables}


def _for_bitsandbytes(
    checkpoint: Checkpoint, grids: Grids, kind: BitsAndBytesKind
) -> dict[str, TensorRef]:
    """Weights that bitsandbytes quantises when the folder is written."""
    chosen = chosen_linears(checkpoint, grids, True, kind)
    refs = {each.tensor: checkpoint.refs[each.tensor] for each in chosen}
    return {
        name: BitsAndBytes(ref, torch.empty(ref.shape, dtype=ref.dtype, device="meta"), kind=kind)
        for name, ref in refs.items()
    }


def _on_grids(checkpoint: Checkpoint, grids: Grids, *, packable: bool) -> Mapping[str, TensorRef]:
    """Packed integers, blocks of ggml, or dequantised values if neither holds them."""
    chosen = chosen_linears(checkpoint, grids, packable)
    values = remade(checkpoint, chosen)
    return {
        each.tensor: _one(checkpoint, each, grids, packable) or values[each.tensor]
        for each in chosen
    }


def _one(checkpoint: Checkpoint, linear: Linear, grids: Grids, packable: bool) -> TensorRef | None:
    grid = grids.of(linear)
    kind = kind_of_grid(grid)
    if kind is not None and linear.expert is None:
        return outlined_blocks(linear.shape, kind, transposed=linear.transposed)
    if not packable:
        return None
    width = linear.shape[1]
    return outlined_codes(
        checkpoint.refs[linear.tensor],
        grid.bits,
        width // grid.group_width(width),
        scale_dtype(grid, checkpoint, linear),
        codes_dtype=torch.float8_e4m3fn if grids.is_float8 else torch.int8,
        input_activations=grids.input_activations,
        block_size=grids.block_size,
        float4=float4_name(grid),
    )
