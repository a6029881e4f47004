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
    Sensitivity,
)
from ...engine import announce
from ...models.blocks.device import stored_dtype
from ...models.blocks.embeddings import embedding_names, embedding_paths, is_part_of_wrapper
from ...models.blocks.empty_model import shared_model
from ...models.blocks.linears import Linear, expert_kind
from ...models.passes.fisher import Fisher, output_fisher
from ...models.passes.sensitivity import Estimates, estimate_losses, loss_rises
from ...models.planning.stored_bytes import embedding_bytes, linear_bytes
from ...solvers.grid import Grid
from ...solvers.round_to_nearest import quantize_round_to_nearest
from ...texts import Windows
from ..quantizing.embeddings import EMBEDDING_BITS

# Rows of the head that its error is estimated on: those that an error costs most in.
_HEAD_ROWS = 2048


def measure_sensitivity(
    checkpoint: Checkpoint,
    windows: Windows,
    grids: Sequence[Grid],
    *,
    gradient_windows: int,
    batch_size: int,
) -> Sensitivity:
    """Both passes, and the estimates of embedding and head."""
    names = embeddings_to_round(checkpoint)
    errors = {name: _rounding_error(checkpoint, name) for name in names}
    fisher = output_fisher(
        checkpoint,
        windows.tokens[:gradient_windows],
        lambda done, total: announce("taking gradients", done, total),
        embedding_error=errors[names[0]] if names else None,
    )
    estimates = estimate_losses(
        checkpoint,
        windows,
        grids,
        fisher.outputs,
        batch_size=batch_size,
        announce=lambda done, total: announce("estimating blocks", done, total),
    )
    return Sensitivity(
        {linear.name: _record(checkpoint, linear, each) for linear, each in estimates.items()},
        _embeddings(checkpoint, names, fisher, errors[names[-1]]) if names else None,
        checkpoint.id,
        windows.text,
        windows.num_tokens,
    )


def embeddings_to_round(checkpoint: Checkpoint) -> list[str]:
    """The tensors that quantize(embedding_bits=8) rounds; empty if it refuses the model."""
    return [] if is_part_of_wrapper(checkpoint) else embedding_names(checkpoint)


def priced_grid(checkpoint: Checkpoint, linear: Linear, grid: Grid, loss: float) -> GridLoss:
    """A grid of a linear with its bytes."""
    size = None if grid.group_size is None else grid.group_width(linear.shape[1])
    dtype = stored_dtype(checkpoint, checkpoint.refs[linear.tensor])
    return GridLoss(grid.bits, size, linear_bytes(linear.shape, grid.bits, size, dtype), loss)


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


def _rounding_error(checkpoint: Checkpoint, name: str) -> Tensor:
    """What rounding an embedding to 8 bits changes, float32 [vocabulary, width]."""
    ref = checkpoint.refs[name]
    weight = ref.load().float()
    rounded = quantize_round_to_nearest(
        weight, grid=Grid(EMBEDDING_BITS, None), scale_dtype=ref.dtype, scales="searched"
    )
    return weight - rounded.dequantize()


def _embeddings(
    checkpoint: Checkpoint, names: Sequence[str], fisher: Fisher, head_error: Tensor
) -> EmbeddingSensitivity:
    return EmbeddingSensitivity(
        names=tuple(names),
        dense_bytes=sum(checkpoint.refs[name].num_bytes for name in names),
        num_bytes=rounded_embeddings_bytes(checkpoint, names),
        loss=fisher.embedding_rise + _head_rise(fisher, head_error),
    )


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


def _head_rise(fisher: Fisher, error: Tensor) -> float:
    """Rise of the loss from the error of the head, estimated on its costliest rows."""
    if fisher.head is None or fisher.head_inputs is None:
        return 0.0
    top = torch.topk(fisher.head, min(_HEAD_ROWS, len(fisher.head)))
    covered = float(top.values.sum())
    if covered <= 0:
        return 0.0
    device = fisher.head_inputs.matrix.device
    rises = loss_rises(error[top.indices].to(device), fisher.head_inputs, top.values)
    return float(rises.sum()) * float(fisher.head.sum()) / covered
