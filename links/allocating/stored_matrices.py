"""The matrices of a GGUF file that have a type each: all linears, the embedding, an untied head."""

from __future__ import annotations

from ...checkpoints import Checkpoint
from ...models.blocks.embeddings import table_names
from ...models.blocks.linears import all_linears


def stored_matrices(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """Shapes [out_features, in_features] by name, the linears first."""
    linears = (each for each in all_linears(checkpoint) if each.has_own_tensor)
    found = {linear.name: linear.shape for linear in linears}
    return {**found, **tables(checkpoint)}


def tables(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """Shapes [vocabulary, width] of the embedding and of an untied head, by name."""
    found = {}
    for name in table_names(checkpoint):
        rows, width = checkpoint.refs[name].shape
        found[name.removesuffix(".weight")] = (rows, width)
    return found
