"""Round the embedding and the output head to a ggml type each, as a GGUF file stores them.

They are rounded to nearest with searched scales. A head tied to the embedding shares its blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...checkpoints import Checkpoint, Coded, GgmlBlocks, TensorRef
from ...engine import announce
from ...errors import SettingError, SolverError
from ...formats.ggml_blocks import kind_of_grid, pack
from ...models.blocks.embeddings import table_names
from ...models.planning.outline import outlined_blocks
from ...solvers.grid import Grid
from ...solvers.round_to_nearest import quantize_round_to_nearest
from .grids import fallback_grid
from .settings import QuantizeSettings


def chosen_tables(checkpoint: Checkpoint, settings: QuantizeSettings) -> Mapping[str, Grid]:
    """The grid of the embedding and of the head, by tensor, where one is set.

    Raises:
        SettingError: the model has no such tensor, it is quantised already, or the blocks of no
            type divide its width.
    """
    names = table_names(checkpoint)
    found = {}
    for place, setting in enumerate(("embedding_grid", "head_grid")):
        kind = getattr(settings, setting)
        if kind is None:
            continue
        if place >= len(names):
            raise SettingError(
                f"quantize({setting}='{kind}'): '{checkpoint.source}' has no such tensor"
                + (", its head is tied to the embedding" if place else "")
                + f"; leave {setting} unset"
            )
        name, ref = names[place], checkpoint.refs[names[place]]
        if isinstance(ref, Coded):
            raise SettingError(f"tensor '{name}' is quantised already; leave {setting} unset")
        grid = fallback_grid(Grid.named(kind), ref.shape[1])
        try:
            grid.group_width(ref.shape[1])
        except SettingError as error:
            raise SettingError(f"tensor '{name}': {error}") from error
        found[name] = grid
    return found


def round_tables(
    checkpoint: Checkpoint, grids: Mapping[str, Grid]
) -> tuple[Checkpoint, dict[str, Any]]:
    """The checkpoint with embedding and head in blocks, and the metrics of that step.

    Raises:
        SolverError: a value is not finite; the message names the tensor.
    """
    fresh: dict[str, Tensor | TensorRef] = {}
    for done, (name, grid) in enumerate(grids.items(), 1):
        fresh[name] = _rounded(name, checkpoint.refs[name], grid)
        announce("quantising embeddings", done, len(grids))
    return checkpoint.evolve(fresh), {"embeddings": len(grids)}


def _rounded(name: str, ref: TensorRef, grid: Grid) -> GgmlBlocks:
    try:
        found = quantize_round_to_nearest(ref.load().float(), grid=grid, scales="searched")
    except SolverError as error:
        raise SolverError(f"tensor '{name}': {error}") from error
    return GgmlBlocks(pack(found), kind=_kind(grid))


def outlined_tables(checkpoint: Checkpoint, grids: Mapping[str, Grid]) -> Mapping[str, TensorRef]:
    """Blocks that would stand for them, on the meta device."""
    made = {}
    for name, grid in grids.items():
        rows, width = checkpoint.refs[name].shape
        made[name] = outlined_blocks((rows, width), _kind(grid), transposed=False)
    return made


def _kind(grid: Grid) -> str:
    kind = kind_of_grid(grid)
    assert kind is not None  # a named grid
    return kind
