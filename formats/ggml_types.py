"""ggml's tensor types, and which type each tensor of a file gets.

The rule is that of llama.cpp's own quantiser, so files can be compared at equal size. Vectors and
learned position embeddings stay float32. The output head, or the embedding if it is used as one, is
Q6_K unless the file's type is Q8_0. If the blocks of a type do not divide a tensor's width, a
fallback replaces it: IQ4_NL for Q2_K and Q3_K, Q5_0 for Q4_K and Q5_K (llama.cpp: Q5_1 for Q5_K),
Q8_0 for Q6_K, float16 for all others. Not implemented: llama.cpp gives a few tensors of a K-quant
file more bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from ..checkpoints.ggml_sizes import block_size
from ..checkpoints.gguf_package import require_gguf

GgmlKind = Literal[
    "f32",
    "f16",
    "bf16",
    "q8_0",
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "iq4_nl",
    "q2_k",
    "q3_k",
    "q4_k",
    "q5_k",
    "q6_k",
]

GGML_KINDS: tuple[GgmlKind, ...] = get_args(GgmlKind)

FILE_TYPES: Mapping[GgmlKind, str] = MappingProxyType(
    {
        "f32": "ALL_F32",
        "f16": "MOSTLY_F16",
        "bf16": "MOSTLY_BF16",
        "q8_0": "MOSTLY_Q8_0",
        "q4_0": "MOSTLY_Q4_0",
        "q4_1": "MOSTLY_Q4_1",
        "q5_0": "MOSTLY_Q5_0",
        "q5_1": "MOSTLY_Q5_1",
        "iq4_nl": "MOSTLY_IQ4_NL",
        "q2_k": "MOSTLY_Q2_K",
        "q3_k": "MOSTLY_Q3_K_S",
        "q4_k": "MOSTLY_Q4_K_S",
        "q5_k": "MOSTLY_Q5_K_S",
        "q6_k": "MOSTLY_Q6_K",
    }
)
"""The name of the file type in the header, by the type of the file's linear layers."""

FLOAT_KINDS: tuple[GgmlKind, ...] = ("f32", "f16", "bf16")
"""Types that store plain values, so that quantised weights are dequantised to be stored."""

_FALLBACKS: Mapping[GgmlKind, GgmlKind] = MappingProxyType(
    {"q2_k": "iq4_nl", "q3_k": "iq4_nl", "q4_k": "q5_0", "q5_k": "q5_0", "q6_k": "q8_0"}
)
_UNQUANTIZED = ("position_embd.weight", "rope_freqs.weight")


def ggml_type(kind: GgmlKind) -> Any:
    """Return the constant of the gguf package for a type."""
    return require_gguf().GGMLQuantizationType[kind.upper()]


def file_type(kind: GgmlKind) -> int:
    """Return the number in the header of a file of that type."""
    return int(require_gguf().LlamaFileType[FILE_TYPES[kind]])


def tensor_bytes(kind: GgmlKind, shape: tuple[int, ...]) -> int:
    """Return the bytes of a tensor of that shape."""
    values, size = block_size(kind)
    return math.prod(shape) // values * size


def kind_for_tensor(
    kind: GgmlKind, name: str, shape: tuple[int, ...], *, is_head: bool
) -> GgmlKind:
    """Return the type a tensor gets in a file of type ``kind``.

    Args:
        kind: type of the file.
        name: the tensor's name in GGUF.
        shape: the tensor's shape, width last.
        is_head: whether it is multiplied with the last hidden state to compute logits.
    """
    if len(shape) == 1 or name in _UNQUANTIZED:
        return "f32"
    if kind in FLOAT_KINDS:
        return kind
    if is_head and kind != "q8_0":
        return kind_for_width("q6_k", shape[-1])
    return kind_for_width(kind, shape[-1])


def kind_for_width(kind: GgmlKind, width: int) -> GgmlKind:
    """Return ``kind``, or its fallback if its blocks do not divide a row of ``width`` values."""
    for candidate in (kind, _FALLBACKS.get(kind, kind)):
        if width % block_size(candidate)[0] == 0:
            return candidate
    return "f16"


def smallest_kind(kinds: Iterable[str]) -> GgmlKind | None:
    """Return the ggml type with the fewest bits among these names, or None if there is none."""
    found = set(kinds)
    return min(
        (kind for kind in GGML_KINDS if kind in found),
        key=lambda kind: tensor_bytes(kind, (256,)),
        default=None,
    )
