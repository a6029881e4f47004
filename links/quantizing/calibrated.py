"""Calibrated quantisation: one pass of GPTQ over the blocks, with tuning and corrections."""

from __future__ import annotations

from typing import Any

from ...checkpoints import Checkpoint
from ...engine import announce, in_thread, unfinished
from ...models.passes.resuming import Resuming
from ...models.passes.rewriting import rewrite_blocks
from ...texts import Windows
from .low_rank import with_adapter
from .solve import BlockTuning, Rounding


async def round_by_text(
    windows: Windows, rounding: Rounding, tuning: BlockTuning | None, batch_size: int
) -> tuple[Checkpoint, dict[str, Any]]:
    """Quantise the checkpoint of ``rounding``; returns the new checkpoint and metrics."""
    correcting = rounding.correcting
    fresh = await in_thread(
        rewrite_blocks,
        rounding.checkpoint,
        windows,
        rounding,
        chosen=rounding.chooses,
        batch_size=batch_size,
        paired=rounding.matching > 0 or tuning is not None,
        refine=tuning,
        resuming=Resuming(
            unfinished(),
            rounding,
            *([] if tuning is None else [tuning]),
            beside=None if correcting is None else correcting.factors,
        ),
        announce=lambda done, total: announce("quantising blocks", done, total),
    )
    light = rounding.checkpoint.evolve(fresh)
    metrics = {**rounding.metrics(), "linears": len(rounding.rounded)}
    if tuning is not None:
        metrics.update(tuning.metrics())
    if correcting is not None:
        light, size = with_adapter(light, correcting)
        metrics.update(size)
    return light, metrics
