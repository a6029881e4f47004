"""prune: take out what carries least, each block judged on what the thinner prefix feeds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from ..contexts.flow import Pruned, Scored
from ..contexts.forecast import Forecast
from ..engine import link
from .pruning.masks import check_mask, mask, mask_bytes, mask_forecast
from .pruning.solve_masks import Method
from .pruning.unit_sizes import check_units, takes_units
from .pruning.units import Hollowing, hollow, hollow_bytes, hollow_forecast


@link
async def prune(
    ctx: Scored,
    *,
    sparsity: Annotated[float, Field(ge=0, lt=1)] | None = None,
    pattern: str = "unstructured",
    method: Method = "admm",
    allocation: Literal["uniform", "load"] = "uniform",
    spread: Annotated[float, Field(ge=0, lt=0.5)] = 0.08,
    damping: Annotated[float, Field(gt=0)] = 0.01,
    polish: Annotated[int, Field(ge=0)] = 0,
    matching: Annotated[float, Field(ge=0, le=1)] | None = None,
    regrow: Annotated[float, Field(ge=0, le=1)] | None = None,
    multiple: Annotated[int, Field(ge=1)] | None = None,
    batch_size: Annotated[int, Field(ge=1)] = 4,
) -> Pruned:
    """Remove the weights that carry least and let those that stay make up for them.

    Patterns unstructured and n:m leave a mask: zeros in dense tensors, neither fewer bytes nor more
    speed by itself. Patterns neurons, groups, experts and layers leave a smaller model: a config
    that says less, and tensors to match.

    Settings:
        sparsity: share to remove; 0.5 where none is given. Of each linear's weights for a mask,
            which a pattern n:m fixes, and then none may be given; else of the units there now
            are, the same count in every block.
        pattern: unstructured; n:m, n kept of every m: 2:4; neurons of the feed-forward layers
            (2302.04089); groups, key/value heads with their query heads; experts, by what their
            absence changes; layers, whole blocks, by the KL that leaving them out costs, the block
            before a gap refitted to bridge it.
        method: of masks: admm (2401.02938), mask and values together in a few steps; alps
            (2406.07831), the same run to convergence, slower; sparsegpt (2301.00774), wanda
            (2306.11695), magnitude, or scores, by the per-weight scores score(per_weight=True)
            left.
        allocation: of masks: uniform, or load: blocks that carry more outliers keep more
            (2310.05175).
        spread: the most a block's sparsity may differ from the mean with allocation="load";
            narrowed, with a warning, where a sparsity near 0 or 1 leaves less room.
        damping: what is added to the Hessian, relative to its mean diagonal.
        polish: of masks: steps of least squares (conjugate gradients) on the values of the mask.
        matching: share of what pruned blocks before it changed that a linear makes up for, so
            that it gives what it gave in the model as it came (2504.02692); costs a third run of
            every block; less is taken where there are fewer than 20 tokens for every input. Where
            none is given 0.5 for admm, alps and smaller models, 0 for the other methods, of which
            only sparsegpt can.
        regrow: of masks: the most of each linear's zeros that may become weights again
            (1911.11134), those that then carry most, where the method finds values too; as many
            as it likes where none is given. A model that has more zeros than are asked for keeps
            them, so far as they may not come back.
        multiple: of smaller models: the count of units left is a multiple of this. Where none is
            given 64 neurons, fewer in narrow models, and single units of the other kinds.
        batch_size: windows per forward.
    """
    if takes_units(pattern):
        return await hollow(
            ctx, Hollowing(pattern, sparsity, damping, matching, multiple, batch_size)
        )
    return await mask(
        ctx,
        sparsity=sparsity,
        pattern=pattern,
        method=method,
        allocation=allocation,
        spread=spread,
        damping=damping,
        polish=polish,
        matching=matching,
        regrow=regrow,
        batch_size=batch_size,
    )


@prune.foresee
def _fits(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Settings that contradict each other or the model's sizes are refused before any work."""
    check = check_units if takes_units(settings["pattern"]) else check_mask
    check(ctx, settings)


@prune.memory
def _need(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """The pass, and the weights it changes, which stay in memory until the last block is done."""
    need = hollow_bytes if takes_units(settings["pattern"]) else mask_bytes
    return need(ctx, settings)


@prune.forecast
def _foretell(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> Forecast:
    foretell = hollow_forecast if takes_units(settings["pattern"]) else mask_forecast
    return foretell(ctx, settings)
