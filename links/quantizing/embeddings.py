"""Round the embedding and the output head to 8 bits, one scale per row (token).

The embedding of a small model is a large part of its file: 28.3 M of the 134.5 M parameters of
SmolLM2-135M. Rounding it to int8 costs next to nothing where rounding it to int4 does. A head tied
to the embedding shares its codes and is stored once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...checkpoints import Checkpoint, Coded, Quantized, TensorRef
from ...engine import announce
from ...errors import SettingError, SolverError
from ...models.blocks.embeddings import embedding_names, is_part_of_wrapper
from ...models.planning.outline import outlined_codes
from ...solvers.grid import Grid
from ...solvers.round_to_nearest import quantize_round_to_nearest

EMBEDDING_BITS = 8
_GRID = Grid(EMBEDDING_BITS, None)


def chosen_embeddings(checkpoint: Checkpoint) -> list[str]:
    """Names of the tensors to round: the embedding, and the head where it is not tied.

    Raises:
        SettingError: the model has no plain embedding, or it is quantised already.
    """
    if is_part_of_wrapper(checkpoint):
        raise SettingError(
            f"quantize(embedding_bits={EMBEDDING_BITS}): '{checkpoint.source}' is the text part of "
            f"a model with other parts, whose classes name the embedding differently; leave "
            f"embedding_bits unset"
        )
    names = embedding_names(checkpoint)
    if not names:
        raise SettingError(
            f"quantize(embedding_bits={EMBEDDING_BITS}): '{checkpoint.source}' has no plain "
            f"nn.Embedding, the only kind transformers loads from 8 bits; leave "
            f"embedding_bits unset"
        )
    for name in names:
        if isinstance(checkpoint.refs[name], Coded):
            raise SettingError(f"tensor '{name}' is quantised already; leave embedding_bits unset")
    return names


def round_embeddings(checkpoint: Checkpoint) -> tuple[Checkpoint, dict[str, Any]]:
    """The checkpoint with 8-bit embeddings, and the metrics of that step.

    Raises:
        SolverError: a value is not finite; the message names the tensor.
    """
    names = chosen_embeddings(checkpoint)
    fresh: dict[str, Tensor | TensorRef] = {}
    for done, name in enumerate(names, 1):
        fresh[name] = _rounded(name, checkpoint.refs[name])
        announce("quantising embeddings", done, len(names))
    return checkpoint.evolve(fresh), {"embeddings": len(names)}


def _rounded(name: str, ref: TensorRef) -> Quantized:
    try:
        found = quantize_round_to_nearest(
            ref.load().float(), grid=_GRID, scale_dtype=ref.dtype, scales="searched"
        )
    except SolverError as error:
        raise SolverError(f"tensor '{name}': {error}") from error
    return Quantized(found.codes.contiguous(), found.scales.contiguous(), bits=EMBEDDING_BITS)


def outlined_embeddings(checkpoint: Checkpoint) -> Mapping[str, TensorRef]:
    """Codes that would stand for the embeddings, on the meta device."""
    refs = {name: checkpoint.refs[name] for name in chosen_embeddings(checkpoint)}
    return {name: outlined_codes(ref, EMBEDDING_BITS, 1, ref.dtype) for name, ref in refs.items()}
