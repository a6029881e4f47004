"""The cost of the links sensitivity and select, and a sensitivity without values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ...checkpoints import Checkpoint
from ...contexts.allocation import Allocation
from ...contexts.flow import Calibrated, Selectable
from ...contexts.forecast import Forecast
from ...contexts.sensitivity import (
    EmbeddingSensitivity,
    LinearSensitivity,
    QuantizedFormat,
    Sensitivity,
)
from ...engine import Chain
from ...engine.rebuilding import links_with_settings
from ...errors import SettingError
from ...models.blocks.linears import all_linears, expert_kind
from ...models.planning.effort import GRADIENT_PASSES, num_blocks
from ...models.planning.memory import gradient_bytes, pass_bytes
from ...solvers.grid import Grid
from ...texts import Windows
from ..wave.context_bytes import context_bytes
from .estimates import (
    embeddings_to_round,
    priced_grid,
    priced_type,
    rounded_embeddings_bytes,
)
from .removal import Removal
from .stored_matrices import stored_matrices

# Work on one block's sampled rows: factorisations, and products for each grid.
_SOLVES, _PRODUCTS_PER_GRID = 1.0, 0.5


def sensitivity_forecast(
    ctx: Calibrated,
    grids: Sequence[Grid],
    gradient_windows: int,
    batch_size: int,
    *,
    format: QuantizedFormat = "compressed-tensors",
) -> Forecast:
    """One forward and backward pass of some windows, one pass of all, and rounding of samples."""
    checkpoint, windows = ctx["checkpoint"], ctx["calibration"]
    blocks, count = num_blocks(checkpoint), windows.num_windows
    passes = GRADIENT_PASSES * min(gradient_windows, count)
    return Forecast(
        adds={"sensitivity": outlined_sensitivity(checkpoint, windows, grids, format=format)},
        block_passes=blocks * (passes + count),
        gram_passes=blocks * count,
        head_passes=passes + 1,
        solves=blocks * _SOLVES,
        products=blocks * _PRODUCTS_PER_GRID * len(grids),
        moved_bytes=4 * checkpoint.num_bytes,
        memory_bytes=max(
            gradient_bytes(checkpoint, windows),
            pass_bytes(checkpoint, windows, batch_size, grams=True),
        ),
    )


def outlined_sensitivity(
    checkpoint: Checkpoint,
    windows: Windows,
    grids: Sequence[Grid],
    *,
    format: QuantizedFormat = "compressed-tensors",
) -> Sensitivity:
    """A sensitivity with true sizes and made-up losses: four times less for each bit more."""
    if format == "gguf":
        made = _outlined_types(checkpoint, grids)
        return Sensitivity(made, None, "", windows.text, windows.num_tokens, format)
    linears = {}
    for linear in (each for each in all_linears(checkpoint) if each.plain):
        fitting = [grid for grid in grids if grid.divides(linear.shape[1])]
        weights = linear.shape[0] * linear.shape[1]
        linears[linear.name] = LinearSensitivity(
            shape=linear.shape,
            dense_bytes=checkpoint.refs[linear.tensor].num_bytes,
            kind=expert_kind(linear) or linear.name,
            compensated=1.0,
            grids=tuple(
                priced_grid(checkpoint, linear, grid, _made_up(weights, grid, linear.shape[1]))
                for grid in fitting
            ),
        )
    names = embeddings_to_round(checkpoint)
    embeddings = None
    if names:
        dense = sum(checkpoint.refs[name].num_bytes for name in names)
        size = rounded_embeddings_bytes(checkpoint, names)
        embeddings = EmbeddingSensitivity(tuple(names), dense, size, 0.0)
    return Sensitivity(linears, embeddings, "", windows.text, windows.num_tokens)


def _outlined_types(checkpoint: Checkpoint, grids: Sequence[Grid]) -> dict[str, LinearSensitivity]:
    return {
        name: LinearSensitivity(
            shape=shape,
            dense_bytes=checkpoint.refs[f"{name}.weight"].num_bytes,
            kind=name,
            compensated=1.0,
            grids=tuple(
                priced_type(shape, grid, _made_up(shape[0] * shape[1], grid, shape[1]))
                for grid in grids
                if grid.divides(shape[1])
            ),
        )
        for name, shape in stored_matrices(checkpoint).items()
        if any(grid.divides(shape[1]) for grid in grids)
    }


def _made_up(weights: int, grid: Grid, width: int) -> float:
    return float(weights * 4.0**-grid.bits * (1 + grid.group_width(width) / (4 * width)))


def select_forecast(ctx: Selectable, body: Chain, removal: Removal | None = None) -> Forecast:
    """The body once for each candidate; the reference is computed once.

    Raises:
        SettingError: the model cannot lose a fraction of ``removal``, or what is left of it has no
            allocation within the budget.
    """
    allocation = ctx["allocation"]
    whole, peak, kept = Forecast(), 0, 0
    start: dict[str, Any] = dict(ctx)
    places = _tried(allocation)
    for place in places:
        forecast, highest, _ = _through(
            {**start, "allocation": replace(allocation, place=place)}, body
        )
        peak = max(peak, highest + kept - context_bytes(ctx))
        if place == places[0]:
            first, kept = forecast, max(0, context_bytes(ctx, forecast.adds) - context_bytes(ctx))
        if "reference" in forecast.adds:
            start["reference"] = forecast.adds["reference"]
        whole = whole.then(forecast)
    for fraction, chain in () if removal is None else _removals(removal, allocation):
        try:
            forecast, highest, smaller = _through(start, chain)
            built, higher, _ = _through(smaller, body)
        except SettingError as error:
            raise SettingError(f"remove={fraction:g}: {error}") from error
        peak = max(peak, max(highest, higher) + kept - context_bytes(ctx))
        whole = whole.then(forecast).then(built)
    count = len(places) + (0 if removal is None else removal.trials)
    note = f"{count} {'candidate is' if count == 1 else 'candidates are'} built and judged"
    return replace(
        whole,
        adds={**first.adds, "allocation": replace(allocation, place=places[0])},
        guessed=whole.guessed or allocation.max_rise is not None,
        notes=(note, *whole.notes),
        memory_bytes=max(0, peak),
    )


def _removals(removal: Removal, allocation: Allocation) -> Iterator[tuple[float, Chain]]:
    """The chains that remove, in the order they run; any fraction may be healed."""
    for fraction in removal.fractions:
        yield fraction, removal.bound(fraction, allocation, healed=False)
    if removal.heals:
        fraction = removal.fractions[0]
        yield fraction, removal.bound(fraction, allocation, healed=True)


def _tried(allocation: Allocation) -> list[int]:
    """Places of the candidates that are expected to be tried; bisection goes down each time."""
    if allocation.max_rise is None:
        return list(range(len(allocation.candidates)))
    places, high = [], len(allocation.candidates) - 1
    while high >= 0:
        places.append(high // 2)
        high = high // 2 - 1
    return places


def _through(ctx: dict[str, Any], body: Chain) -> tuple[Forecast, int, dict[str, Any]]:
    """The forecasts of a chain's links together, the peak of memory, and the context after it."""
    whole, peak = Forecast(), 0
    for each in links_with_settings(body):
        hook = each.factory.hooks.forecast
        forecast = Forecast() if hook is None else hook(ctx, each.settings)
        peak = max(
            peak, context_bytes(ctx) + forecast.memory_bytes, context_bytes(ctx, forecast.adds)
        )
        whole, ctx = whole.then(forecast), {**ctx, **forecast.adds}
    return whole, peak, ctx
