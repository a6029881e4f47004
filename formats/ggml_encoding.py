"""The bytes of a tensor in each ggml type."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from gguf.quants import quantize
from torch import Tensor

from ..errors import CheckpointError
from .ggml_types import GgmlKind, ggml_type
from .k_quants import q4_k, q6_k

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
    if kind == "q4_k":
        return q4_k(values).numpy()
    if kind == "q6_k":
        return q6_k(values).numpy()
    return quantize(values.contiguous().numpy(), ggml_type(kind))


def _bytes(values: Tensor) -> np.ndarray:
    return values.reshape(values.shape[0], -1).view(torch.uint8).numpy()
