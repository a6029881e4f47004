"""sensitivity: estimate what storing each linear in fewer bits costs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..checkpoints import Coded
from ..contexts.flow import Calibrated, Partial, Sensitive
from ..contexts.forecast import Forecast
from ..contexts.sensitivity import SENSITIVITIES
from ..engine import Settings, in_thread, link
from ..errors import SettingError
from ..models.blocks.linears import all_linears
from ..solvers.grid import Grid
from .allocating.estimates import measure_sensitivity
from .allocating.forecast import sensitivity_forecast

_REPORTED_BITS = 4  # the bits, or those nearest to it, that the metrics compare linears at


class SensitivitySettings(Settings):
    """The settings of sensitivity."""

    bits: tuple[Annotated[int, Field(ge=2, le=8)], ...] = (2, 3, 4, 5, 6, 8)
    """Bits per weight to estimate."""

    group_sizes: tuple[Annotated[int, Field(ge=1)] | None, ...] = (32, 64, 128, None)
    """Group sizes to estimate with each, where they divide the width; null: one scale per row."""

    windows: Annotated[int, Field(ge=1)] = 16
    """Number of calibration windows that gradients are computed on."""

    batch_size: Annotated[int, Field(ge=1)] = 4
    """Windows per forward pass."""


@link(SensitivitySettings)
async def sensitivity(ctx: Calibrated, settings: SensitivitySettings) -> Sensitive:
    """Estimate the rise of the loss from rounding each linear, and the embedding to 8 bits.

    The estimate is the output error that a grid causes, weighted by the squared gradient of the
    loss with respect to each output (Fisher). It takes a gradient pass over some windows and a
    pass over all calibration windows. It ranks linears and grids; it does not predict perplexity.
    """
    found = await in_thread(
        measure_sensitivity,
        ctx["checkpoint"],
        ctx["calibration"],
        _grids(settings),
        gradient_windows=settings.windows,
        batch_size=settings.batch_size,
    )
    bits = min(settings.bits, key=lambda bits: abs(bits - _REPORTED_BITS))
    losses = {name: each.loss_at(bits) or 0.0 for name, each in found.linears.items()}
    return {
        "sensitivity": found,
        "metrics": {
            "linears": len(found.linears),
            "bits": bits,
            "loss": sum(losses.values()),
            "most_sensitive": max(losses, key=losses.__getitem__),
            "least_sensitive": min(losses, key=losses.__getitem__),
            SENSITIVITIES: losses,
        },
    }


def _grids(settings: SensitivitySettings) -> list[Grid]:
    pairs = {(bits, size): None for bits in settings.bits for size in settings.group_sizes}
    return [Grid(bits, size, signed=True) for bits, size in pairs]


@sensitivity.check
def _check(ctx: Partial, settings: SensitivitySettings) -> None:
    """No grid, or weights that cannot be quantised."""
    for name in ("bits", "group_sizes"):
        if not getattr(settings, name):
            raise SettingError(f"sensitivity({name}=()) leaves nothing to estimate; name some")
    checkpoint = ctx.get("checkpoint")
    if checkpoint is None:
        return
    plain = [linear for linear in all_linears(checkpoint) if linear.plain]
    if not plain:
        raise SettingError(
            f"no linear of '{checkpoint.source}' can be stored in a packed format, so there are no "
            f"bits to choose; its weights are not nn.Linear modules"
        )
    grids = _grids(settings)
    for linear in plain:
        if isinstance(checkpoint.refs[linear.tensor], Coded):
            raise SettingError(
                f"layer '{linear.name}' is quantised already; load the model it was made from, or "
                f"load with dequantize=True"
            )
        if not any(grid.divides(linear.shape[1]) for grid in grids):
            raise SettingError(
                f"no group size of sensitivity(group_sizes={list(settings.group_sizes)}) divides "
                f"the {linear.shape[1]} columns of layer '{linear.name}'; add null, one scale per "
                f"row"
            )


@sensitivity.forecast
def _forecast(ctx: Calibrated, settings: SensitivitySettings) -> Forecast:
    return sensitivity_forecast(ctx, _grids(settings), settings.windows, settings.batch_size)
