"""What quantize would put in the place of each weight, in outline."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...checkpoints import BitsAndBytes, Checkpoint, TensorRef
from ...checkpoints.tensors import BitsAndBytesKind
from ...formats.ggml_blocks import kind_of_grid
from ...models.blocks.linears import Linear
from ...models.planning.effort import remade
from ...models.planning.outline import outlined_blocks, outlined_codes
from ...solvers.grid import Grid
from .solve import fitting_grid, scale_dtype
from .uncalibrated import chosen_linears


def handed_over(checkpoint: Checkpoint, kind: BitsAndBytesKind) -> dict[str, TensorRef]:
    """Weights that bitsandbytes quantises when the folder is made."""
    refs = {each.tensor: checkpoint.refs[each.tensor] for each in chosen_linears(checkpoint, True)}
    return {
        name: BitsAndBytes(ref, torch.empty(ref.shape, dtype=ref.dtype, device="meta"), kind=kind)
        for name, ref in refs.items()
    }


def on_grid(checkpoint: Checkpoint, grid: Grid, *, packable: bool) -> Mapping[str, TensorRef]:
    """Codes, ggml's blocks, or values where nothing packs them."""
    chosen = chosen_linears(checkpoint, packable)
    values = remade(checkpoint, chosen)
    return {
        each.tensor: _one(checkpoint, each, grid, packable) or values[each.tensor]
        for each in chosen
    }


def _one(checkpoint: Checkpoint, linear: Linear, grid: Grid, packable: bool) -> TensorRef | None:
    fitting = fitting_grid(grid, linear)
    kind = kind_of_grid(fitting)
    if kind is not None and linear.expert is None:
        return outlined_blocks(linear.shape, kind, transposed=linear.transposed)
    if not packable:
        return None
    width = linear.shape[1]
    return outlined_codes(
        checkpoint.refs[linear.tensor],
        fitting.bits,
        width // fitting.group_width(width),
        scale_dtype(fitting, checkpoint, linear),
    )
