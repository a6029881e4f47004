"""sensitivity: estimate what storing each linear in fewer bits costs."""

from __future__ import annotations

import warnings
from typing import Annotated, get_args

from pydantic import Field

from ..checkpoints import Checkpoint, Coded
from ..checkpoints.gguf_package import require_gguf
from ..contexts.flow import Calibrated, Partial, Sensitive
from ..contexts.forecast import Forecast
from ..contexts.sensitivity import SENSITIVITIES, QuantizedFormat
from ..engine import Settings, changed, in_thread, link
from ..errors import SettingError
from ..models.blocks.empty_model import shared_model
from ..models.blocks.linears import all_linears
from ..solvers.grid import Grid, NamedGrid
from .allocating.estimates import measure_sensitivity
from .allocating.forecast import sensitivity_forecast
from .allocating.stored_matrices import stored_matrices

_REPORTED_BITS = 4  # the bits, or those nearest to it, that the metrics compare linears at


class SensitivitySettings(Settings):
    """The settings of sensitivity."""

    format: QuantizedFormat = "compressed-tensors"
    """What the model will be saved as: compressed-tensors, integers of ``bits`` in groups of
    ``group_sizes``; or gguf, the ggml ``types`` of a GGUF file, embedding and head included."""

    types: tuple[NamedGrid, ...] = get_args(NamedGrid)
    """For gguf: ggml types to estimate, where their blocks divide the width: a multiple of 256 for
    q2_k to q6_k, of 32 for the others."""

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

    For a GGUF file, embedding and head are estimated on every type too.
    The estimate is the output error that a grid causes, weighted by the squared gradient of the
    loss with respect to each output (Fisher). It takes a gradient pass over some windows and a
    pass over all calibration windows. It ranks linears and grids; it does not predict perplexity.
    """
    found = await in_thread(
        measure_sensitivity,
        ctx["checkpoint"],
        ctx["calibration"],
        _grids(settings),
        format=settings.format,
        gradient_windows=settings.windows,
        batch_size=settings.batch_size,
    )
    known = {grid.bits for each in found.linears.values() for grid in each.grids}
    bits = min(sorted(known), key=lambda bits: abs(bits - _REPORTED_BITS))
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
    if settings.format == "gguf":
        return [Grid.named(name) for name in settings.types]
    pairs = {(bits, size): None for bits in settings.bits for size in settings.group_sizes}
    return [Grid(bits, size, signed=True) for bits, size in pairs]


@sensitivity.on_every_rank
def _on_every_rank(settings: SensitivitySettings) -> bool:
    """The windows are divided, and the linears that errors are estimated of."""
    return True


@sensitivity.check
def _check(ctx: Partial, settings: SensitivitySettings) -> None:
    """No grid, or weights that cannot be quantised."""
    is_gguf, given = settings.format == "gguf", changed(settings)
    ours, others = ("bits", "group_sizes"), ("types",)
    if is_gguf:
        ours, others = others, ours  # type: ignore[assignment]
    for name in ours:
        if not getattr(settings, name):
            raise SettingError(f"sensitivity({name}=()) leaves nothing to estimate; name some")
    for name in others:
        if name in given:
            raise SettingError(
                f"sensitivity({name}={list(given[name])}) is not a setting of format "
                f"'{settings.format}'; set {' and '.join(ours)}, or another format"
            )
    checkpoint = ctx.get("checkpoint")
    if checkpoint is not None:
        (_check_gguf if is_gguf else _check_packed)(checkpoint, settings)


def _check_packed(checkpoint: Checkpoint, settings: SensitivitySettings) -> None:
    """Linears that are quantised, or that no group size fits."""
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


def _check_gguf(checkpoint: Checkpoint, settings: SensitivitySettings) -> None:
    """An architecture that GGUF has not, weights that are quantised, widths that no type fits."""
    require_gguf()
    from ..formats.gguf_architectures import architecture_of

    architecture_of(shared_model(checkpoint).config)
    matrices, grids = stored_matrices(checkpoint), _grids(settings)
    for name in matrices:
        if isinstance(checkpoint.refs[f"{name}.weight"], Coded):
            raise SettingError(
                f"'{name}' is quantised already; load the model it was made from, or load with "
                f"dequantize=True"
            )
    left = {n: s for n, s in matrices.items() if not any(grid.divides(s[1]) for grid in grids)}
    if len(left) == len(matrices):
        raise SettingError(
            f"no type of sensitivity(types={list(settings.types)}) has blocks that divide the "
            f"columns of any matrix of '{checkpoint.source}', such as the {matrices[name][1]} of "
            f"'{name}'; q8_0, q5_0, iq4_nl and q4_0 have blocks of 32"
        )
    if left:
        name, shape = next(iter(left.items()))
        warnings.warn(
            f"{len(left)} matrices, such as '{name}', stay float16: their widths, such as "
            f"{shape[1]}, are not multiples of the blocks of any type of sensitivity(types=...)",
            stacklevel=2,
        )


@sensitivity.forecast
def _forecast(ctx: Calibrated, settings: SensitivitySettings) -> Forecast:
    return sensitivity_forecast(
        ctx, _grids(settings), settings.windows, settings.batch_size, format=settings.format
    )
