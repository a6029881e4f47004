"""The passes of the link sensitivity, and their results as a record."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...checkpoints import Checkpoint
from ...contexts.sensitivity import (
    EmbeddingSensitivity,
    GridLoss,
    LinearSensitivity,
    QuantizedFormat,
    Sensitivity,
)
from ...engine import announce
from ...formats.ggml_blocks import kind_of_grid
from ...models.blocks.device import stored_dtype
from ...models.blocks.embeddings import (
    embedding_names,
    embedding_paths,
    is_part_of_wrapper,
    table_names,
)
from ...models.blocks.empty_model import shared_model
from ...models.blocks.linears import Linear, expert_kind
from ...models.passes.fisher import Fisher, output_fisher
from ...models.passes.sensitivity import Estimates, estimate_losses, loss_rises
from ...models.planning.stored_bytes import embedding_bytes, linear_bytes
from ...solvers.grid import Grid
from ...solvers.round_to_nearest import quantize_round_to_nearest
from ...texts import Windows
from ..quantizing.embeddings import EMBEDDING_BITS
from .stored_matrices import tables

# Rows of the head that its error is estimated on: those that an error costs most in.
_HEAD_ROWS = 2048


def measure_sensitivity(
    checkpoint: Checkpoint,
    windows: Windows,
    grids: Sequence[Grid],
    *,
    format: QuantizedFormat = "compressed-tensors",
    gradient_windows: int,
    batch_size: int,
) -> Sensitivity:
    """Both passes, and the estimates of embedding and head."""
    fisher = output_fisher(
        checkpoint,
        windows.tokens[:gradient_windows],
        lambda done, total: announce("taking gradients", done, total),
    )
    is_gguf = format == "gguf"
    estimates = estimate_losses(
        checkpoint,
        windows,
        grids,
        fisher.outputs,
        chosen=lambda linear: linear.has_own_tensor if is_gguf else linear.plain,
        batch_size=batch_size,
        announce=lambda done, total: announce("estimating blocks", done, total),
    )
    names = [] if is_gguf else embeddings_to_round(checkpoint)
    linears = {
        linear.name: _record(checkpoint, linear, each)
        for linear, each in estimates.items()
        if each.losses or not is_gguf  # others stay float16
    }
    return Sensitivity(
        {**linears, **(_tables(checkpoint, grids, fisher) if is_gguf else {})},
        _embeddings(checkpoint, names, fisher) if names else None,
        checkpoint.id,
        windows.text,
        windows.num_tokens,
        format,
    )


def embeddings_to_round(checkpoint: Checkpoint) -> list[str]:
    """The tensors that quantize(embedding_bits=8) rounds; empty if it refuses the model."""
    return [] if is_part_of_wrapper(checkpoint) else embedding_names(checkpoint)


def priced_grid(checkpoint: Checkpoint, linear: Linear, grid: Grid, loss: float) -> GridLoss:
    """A grid of a linear with its bytes."""
    if kind_of_grid(grid) is not None:
        return priced_type(linear.shape, grid, loss)
    size = None if grid.group_size is None else grid.group_width(linear.shape[1])
    dtype = stored_dtype(checkpoint, checkpoint.refs[linear.tensor])
    return GridLoss(grid.bits, size, linear_bytes(linear.shape, grid.bits, size, dtype), loss)


def priced_type(shape: tuple[int, int], grid: Grid, loss: float) -> GridLoss:
    """The grid of a ggml type with its bytes for a matrix."""
    from ...formats.gguf_size import stored_tensor_bytes  # needs the extra gguf

    kind, size = kind_of_grid(grid), grid.group_width(shape[1])
    assert kind is not None
    return GridLoss(grid.bits, size, stored_tensor_bytes(kind, shape), loss, kind)


def _record(checkpoint: Checkpoint, linear: Linear, found: Estimates) -> LinearSensitivity:
    return LinearSensitivity(
        shape=linear.shape,
        dense_bytes=checkpoint.refs[linear.tensor].num_bytes,
        kind=expert_kind(linear) or linear.name,
        compensated=found.compensated,
        grids=tuple(
            priced_grid(checkpoint, linear, grid, loss) for grid, loss in found.losses.items()
        ),
    )


def _rounding_error(weight: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """What rounding rows of an embedding or head changes, float32."""
    rounded = quantize_round_to_nearest(weight, grid=grid, scale_dtype=dtype, scales="searched")
    return weight - rounded.dequantize()


def _embeddings(
    checkpoint: Checkpoint, names: Sequence[str], fisher: Fisher
) -> EmbeddingSensitivity:
    grid = Grid(EMBEDDING_BITS, None)
    return EmbeddingSensitivity(
        names=tuple(names),
        dense_bytes=sum(checkpoint.refs[name].num_bytes for name in names),
        num_bytes=rounded_embeddings_bytes(checkpoint, names),
        loss=_entered_rise(checkpoint, names[0], grid, fisher)
        + _head_rise(checkpoint, names[-1], grid, fisher),
    )


def _tables(
    checkpoint: Checkpoint, grids: Sequence[Grid], fisher: Fisher
) -> dict[str, LinearSensitivity]:
    """Embedding and untied head on every grid that divides their width."""
    names, found = table_names(checkpoint), {}
    for name, (path, shape) in zip(names, tables(checkpoint).items(), strict=True):
        losses = {}
        for grid in (grid for grid in grids if grid.divides(shape[1])):
            entered = _entered_rise(checkpoint, name, grid, fisher) if name == names[0] else 0.0
            left = _head_rise(checkpoint, name, grid, fisher) if name == names[-1] else 0.0
            losses[grid] = entered + left
        if not losses:
            continue
        found[path] = LinearSensitivity(
            shape=shape,
            dense_bytes=checkpoint.refs[name].num_bytes,
            kind=path,
            compensated=1.0,
            grids=tuple(priced_type(shape, grid, loss) for grid, loss in losses.items()),
        )
    return found


def rounded_embeddings_bytes(checkpoint: Checkpoint, names: Sequence[str]) -> int:
    """Bytes of embedding and head as int8 rows; a tied head repeats the scales."""
    heads = len(embedding_paths(shared_model(checkpoint))) - len(names)
    return sum(
        embedding_bytes(_matrix(checkpoint, name), checkpoint.refs[name].dtype, heads)
        for name in names
    )


def _matrix(checkpoint: Checkpoint, name: str) -> tuple[int, int]:
    rows, width = checkpoint.refs[name].shape
    return rows, width


def _entered_rise(checkpoint: Checkpoint, name: str, grid: Grid, fisher: Fisher) -> float:
    """Rise of the loss from the error of the embedding's rows of the tokens that occurred."""
    ref = checkpoint.refs[name]
    rows = ref.load()[fisher.tokens].float()
    return fisher.embedding_rise(_rounding_error(rows, grid, ref.dtype))


def _head_rise(checkpoint: Checkpoint, name: str, grid: Grid, fisher: Fisher) -> float:
    """Rise of the loss from the error of the head, estimated on its costliest rows."""
    if fisher.head is None or fisher.head_inputs is None:
        return 0.0
    top = torch.topk(fisher.head, min(_HEAD_ROWS, len(fisher.head)))
    covered = float(top.values.sum())
    if covered <= 0:
        return 0.0
    device, ref = fisher.head_inputs.matrix.device, checkpoint.refs[name]
    error = _rounding_error(ref.load()[top.indices].float(), grid, ref.dtype)
    rises = loss_rises(error.to(device), fisher.head_inputs, top.values)
    return float(rises.sum()) * float(fisher.head.sum()) / covered
