"""The bytes of a tensor in each ggml type.

Weights that no solver quantised, such as the head, are rounded to nearest: with searched scales on
the grids of super-blocks and of IQ4_NL, by the gguf package on the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from gguf.quants import quantize
from torch import Tensor

from ..errors import CheckpointError
from ..solvers.grid import NAMED_GRIDS
from ..solvers.round_to_nearest import quantize_round_to_nearest
from .ggml_blocks import pack
from .ggml_types import GgmlKind, ggml_type

# Values encoded at a time, to bound the temporary copies.
_VALUES_PER_CHUNK = 1 << 24

_DTYPES: Mapping[GgmlKind, torch.dtype] = MappingProxyType(
    {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
)


def encode(kind: GgmlKind, values: Tensor, name: str) -> np.ndarray:
    """Return the bytes of ``values`` [rows, width], uint8 [rows, bytes per row].

    Args:
        kind: the ggml type.
        values: any floating dtype.
        name: the tensor's name, for the error message.

    Raises:
        CheckpointError: a value does not fit in float16.
    """
    if kind in _DTYPES:
        stored = values.to(_DTYPES[kind]).contiguous()
        if not torch.isfinite(stored.float().abs().max()) and torch.isfinite(values).all():
            raise CheckpointError(
                f"tensor '{name}' holds {float(values.abs().max()):g}, which does not fit in "
                f"float16; write it as bf16 or f32"
            )
        return _bytes(stored)
    rows = max(_VALUES_PER_CHUNK // values.shape[1], 1)
    return np.concatenate([_quantized(kind, chunk.float()) for chunk in values.split(rows)])


def _quantized(kind: GgmlKind, values: Tensor) -> np.ndarray:
    grid = NAMED_GRIDS.get(kind)
    if grid is not None and (grid.super_block or grid.levels):
        return pack(quantize_round_to_nearest(values, grid=grid, scales="searched")).numpy()
    return quantize(values.contiguous().numpy(), ggml_type(kind))


def _bytes(values: Tensor) -> np.ndarray:
    return values.reshape(values.shape[0], -1).view(torch.uint8).numpy()
