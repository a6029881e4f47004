"""ggml's tensor types: which a tensor gets, and its bytes in that type.

The rule is llama.cpp's own for a file of one type, so that files compare at the same size: vectors
and learned positions stay float32; the head, or the embedding that serves as one, is Q6_K where
the rest is smaller than Q8_0; and a width that a type's blocks do not divide falls back to the
next larger type that fits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf.quants import quantize
from torch import Tensor

from ..errors import CheckpointError

Kind = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]

KINDS: tuple[Kind, ...] = get_args(Kind)

FILE_TYPES: Mapping[Kind, LlamaFileType] = MappingProxyType(
    {
        "f32": LlamaFileType.ALL_F32,
        "f16": LlamaFileType.MOSTLY_F16,
        "bf16": LlamaFileType.MOSTLY_BF16,
        "q8_0": LlamaFileType.MOSTLY_Q8_0,
        "q4_0": LlamaFileType.MOSTLY_Q4_0,
        "q4_1": LlamaFileType.MOSTLY_Q4_1,
        "q5_0": LlamaFileType.MOSTLY_Q5_0,
        "q5_1": LlamaFileType.MOSTLY_Q5_1,
    }
)
"""What a whole file is called whose linears are of a type."""

_PLAIN: Mapping[Kind, torch.dtype] = MappingProxyType(
    {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
)
_UNQUANTIZED = ("position_embd.weight", "rope_freqs.weight")


def ggml_type(kind: Kind) -> GGMLQuantizationType:
    """gguf's own constant for a type."""
    return GGMLQuantizationType[kind.upper()]


def num_bytes(kind: Kind, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of that shape."""
    values, size = GGML_QUANT_SIZES[ggml_type(kind)]
    return math.prod(shape) // values * size


def chosen_kind(kind: Kind, name: str, shape: tuple[int, ...], *, is_head: bool) -> Kind:
    """The type a tensor gets in a file of ``kind``.

    Args:
        name: in GGUF.
        is_head: whether it is multiplied with the last hidden state to give logits.
    """
    if len(shape) == 1 or name in _UNQUANTIZED:
        return "f32"
    if kind in _PLAIN:
        return kind
    return "q8_0" if is_head and kind != "q8_0" else fitting_kind(kind, shape[-1])


def fitting_kind(kind: Kind, width: int) -> Kind:
    """The type itself, or what stands in for it where its blocks do not divide a row's width."""
    return kind if width % GGML_QUANT_SIZES[ggml_type(kind)][0] == 0 else "f16"


def encode(kind: Kind, values: Tensor, name: str) -> np.ndarray:
    """The bytes [rows, bytes of a row] of ``values`` [rows, width], uint8.

    Raises:
        CheckpointError: a value that float16 does not hold.
    """
    if kind in _PLAIN:
        stored = values.to(_PLAIN[kind]).contiguous()
        if not torch.isfinite(stored.float().abs().max()) and torch.isfinite(values).all():
            raise CheckpointError(
                f"tensor '{name}' holds {float(values.abs().max()):g}, more than float16 can; "
                f"write it as bf16 or f32"
            )
        return _bytes(stored)
    return quantize(values.float().contiguous().numpy(), ggml_type(kind))


def _bytes(values: Tensor) -> np.ndarray:
    return values.reshape(values.shape[0], -1).view(torch.uint8).numpy()
