"""ggml's tensor types, and which a tensor gets in a file of one type.

The rule is that of llama.cpp's own quantiser, so that files compare at the same size: vectors and
learned positions stay float32; the head, or the embedding that serves as one, is Q6_K unless the
rest is Q8_0; and where a type's blocks do not divide a width, Q5_0 stands in for Q4_K, Q8_0 for
Q6_K, and float16 for the rest. What is not of the rule: it gives a few tensors of a Q4_K file more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, get_args

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

GgmlKind = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q6_k"]

GGML_KINDS: tuple[GgmlKind, ...] = get_args(GgmlKind)

FILE_TYPES: Mapping[GgmlKind, LlamaFileType] = MappingProxyType(
    {
        "f32": LlamaFileType.ALL_F32,
        "f16": LlamaFileType.MOSTLY_F16,
        "bf16": LlamaFileType.MOSTLY_BF16,
        "q8_0": LlamaFileType.MOSTLY_Q8_0,
        "q4_0": LlamaFileType.MOSTLY_Q4_0,
        "q4_1": LlamaFileType.MOSTLY_Q4_1,
        "q5_0": LlamaFileType.MOSTLY_Q5_0,
        "q5_1": LlamaFileType.MOSTLY_Q5_1,
        "q4_k": LlamaFileType.MOSTLY_Q4_K_S,
        "q6_k": LlamaFileType.MOSTLY_Q6_K,
    }
)
"""What a whole file is called whose linears are of a type."""

UNBLOCKED: tuple[GgmlKind, ...] = ("f32", "f16", "bf16")
"""Types that hold values one by one, so that any code is multiplied out and none chosen anew."""

_STAND_INS: Mapping[GgmlKind, GgmlKind] = MappingProxyType({"q4_k": "q5_0", "q6_k": "q8_0"})
_UNQUANTIZED = ("position_embd.weight", "rope_freqs.weight")


def ggml_type(kind: GgmlKind) -> GGMLQuantizationType:
    """gguf's own constant for a type."""
    return GGMLQuantizationType[kind.upper()]


def tensor_bytes(kind: GgmlKind, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of that shape."""
    values, size = GGML_QUANT_SIZES[ggml_type(kind)]
    return math.prod(shape) // values * size


def chosen_kind(kind: GgmlKind, name: str, shape: tuple[int, ...], *, is_head: bool) -> GgmlKind:
    """The type a tensor gets in a file of ``kind``.

    Args:
        name: in GGUF.
        is_head: whether it is multiplied with the last hidden state to give logits.
    """
    if len(shape) == 1 or name in _UNQUANTIZED:
        return "f32"
    if kind in UNBLOCKED:
        return kind
    if is_head and kind != "q8_0":
        return fitting_kind("q6_k", shape[-1])
    return fitting_kind(kind, shape[-1])


def fitting_kind(kind: GgmlKind, width: int) -> GgmlKind:
    """The type itself, or what stands in for it where its blocks do not divide a row's width."""
    for candidate in (kind, _STAND_INS.get(kind, kind)):
        if width % GGML_QUANT_SIZES[ggml_type(candidate)][0] == 0:
            return candidate
    return "f16"


def smallest_kind(kinds: Iterable[str]) -> GgmlKind | None:
    """The type of fewest bits, among names of types; None of none."""
    found = set(kinds)
    return min(
        (kind for kind in GGML_KINDS if kind in found),
        key=lambda kind: tensor_bytes(kind, (256,)),
        default=None,
    )
