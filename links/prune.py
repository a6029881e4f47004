"""prune: remove the least important weights or units, block by block, on the pruned inputs."""

from __future__ import annotations

from ..contexts.flow import Partial, Pruned, Scored
from ..engine import link
from .pruning.forecast import prune_forecast
from .pruning.masks import check_mask, mask
from .pruning.settings import PruneSettings, takes_units
from .pruning.unit_sizes import check_units
from .pruning.units import remove_units


@link(PruneSettings)
async def prune(ctx: Scored, settings: PruneSettings) -> Pruned:
    """Remove the least important weights and update the remaining ones to compensate for the error.

    Patterns unstructured and n:m leave a mask: zeros in dense tensors, which by themselves save
    neither bytes nor time. Patterns neurons, groups, experts and layers leave a smaller model: a
    smaller config, and tensors to match.
    """
    if takes_units(settings.pattern):
        return await remove_units(ctx, settings, settings.pattern)
    return await mask(ctx, settings)


@prune.on_every_rank
def _on_every_rank(settings: PruneSettings) -> bool:
    """Windows and linears are divided."""
    return True


@prune.check
def _check(ctx: Partial, settings: PruneSettings) -> None:
    """Settings that contradict each other or do not fit the model's sizes."""
    if takes_units(settings.pattern):
        check_units(ctx, settings, settings.pattern)
    else:
        check_mask(ctx, settings)


prune.forecast(prune_forecast)
