"""The cost of prune: one pass over the blocks, the work of its solver, and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ...checkpoints import Checkpoint
from ...contexts.flow import Scored
from ...contexts.forecast import Forecast
from ...contexts.plan import Plan
from ...models.blocks.linears import all_linears
from ...models.planning.effort import GRADIENT_PASSES, SolverWork, num_blocks, remade, rewriting
from ...models.planning.memory import gradient_bytes, pass_bytes
from ...models.planning.outline import exchanged, outlined
from ...models.units.remove_layers import shorter_config
from .masks import mask_matching
from .settings import PruneSettings, UnitPattern, takes_units
from .unit_sizes import layers_left, wanted_size
from .units import by_loss, choice_windows, choosing_windows, unit_matching

# Work of each method on the linears of one block.
_WORK: Mapping[str, SolverWork] = MappingProxyType(
    {
        "admm": SolverWork(0.6, 9.0),
        "alps": SolverWork(1.0, 110.0),
        "sparsegpt": SolverWork(1.0, 4.0),
    }
)
_RANKED = SolverWork(0.0, 3.0)  # methods that only rank weights
_UNITS = SolverWork(3.0, 0.0)


def prune_forecast(ctx: Scored, settings: PruneSettings) -> Forecast:
    """One pass over the blocks, and the new weights in memory until the last block is done."""
    if takes_units(settings.pattern):
        return _units_forecast(ctx, settings, settings.pattern)
    return _mask_forecast(ctx, settings)


def _mask_forecast(ctx: Scored, settings: PruneSettings) -> Forecast:
    checkpoint, windows = ctx["checkpoint"], ctx["calibration"]
    linears = all_linears(checkpoint)
    pruned = sum(each.shape[0] * each.shape[1] for each in linears)
    paired = mask_matching(settings) > 0
    passed = pass_bytes(checkpoint, windows, settings.batch_size, grams=True, paired=paired)
    return Forecast(
        adds={
            "checkpoint": exchanged(checkpoint, remade(checkpoint, linears)),
            "plan": Plan(settings.method, settings.pattern, {}),
        },
        memory_bytes=pruned * checkpoint.num_bytes // checkpoint.num_parameters + passed,
        **rewriting(checkpoint, windows, paired=paired, solver=_WORK.get(settings.method, _RANKED)),
    )


def _units_forecast(ctx: Scored, settings: PruneSettings, pattern: UnitPattern) -> Forecast:
    """Choosing layers or experts also tries each of them, and neurons take a gradient pass."""
    checkpoint, windows = ctx["checkpoint"], ctx["calibration"]
    config, trials = _smaller(checkpoint, settings, pattern)
    paired = unit_matching(settings) > 0
    passed = pass_bytes(checkpoint, windows, settings.batch_size, grams=True, paired=paired)
    work = rewriting(checkpoint, windows, paired=paired, solver=_UNITS)
    work["block_passes"] += trials * len(choice_windows(windows))
    weighed = by_loss(checkpoint, settings)
    if weighed:
        gradients = GRADIENT_PASSES * len(choosing_windows(windows))
        work["block_passes"] += gradients * num_blocks(checkpoint)
        work["head_passes"] += gradients
        passed = max(passed, gradient_bytes(checkpoint, windows))
    return Forecast(
        adds={
            "checkpoint": _outline(checkpoint, config),
            "plan": Plan("fisher" if weighed else "obs", pattern, {}),
        },
        memory_bytes=checkpoint.num_bytes + passed,
        **work,
    )


def _smaller(
    checkpoint: Checkpoint, settings: PruneSettings, pattern: UnitPattern
) -> tuple[Mapping[str, Any], float]:
    """The config of the smaller model, and the block passes that choosing its units takes."""
    blocks = num_blocks(checkpoint)
    if pattern == "layers":
        keep = layers_left(checkpoint, settings)
        return shorter_config(checkpoint, range(keep)), (blocks - keep) * blocks**2 / 2
    size = wanted_size(checkpoint, pattern, settings)
    return size.config, size.before * blocks if pattern == "experts" else 0


def _outline(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Checkpoint:
    dtype = max((ref.dtype for ref in checkpoint.refs.values()), key=lambda each: each.itemsize)
    return outlined(checkpoint, dtype, held=True, config=config)
