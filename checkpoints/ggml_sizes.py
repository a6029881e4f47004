"""Sizes of ggml's blocks, and where their scales are, by the name of the type in lower case."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..errors import CheckpointError

BLOCK_SIZES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "f32": (1, 4),
        "f16": (1, 2),
        "bf16": (1, 2),
        "q8_0": (32, 34),
        "q4_0": (32, 18),
        "q4_1": (32, 20),
        "q5_0": (32, 22),
        "q5_1": (32, 24),
        "iq4_nl": (32, 18),
        "q2_k": (256, 84),
        "q3_k": (256, 110),
        "q4_k": (256, 144),
        "q5_k": (256, 176),
        "q6_k": (256, 210),
    }
)
"""Those of the gguf package, so that sizes are known without it."""

SCALE_BYTES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "q8_0": (0,),
        "q4_0": (0,),
        "q5_0": (0,),
        "iq4_nl": (0,),
        "q2_k": (80, 82),
        "q3_k": (108,),
        "q4_k": (0, 2),
        "q5_k": (0, 2),
        "q6_k": (208,),
    }
)
"""Where in a block the float16 numbers are that multiply all of its values: its scale and, where it
has minimums, their scale."""


def block_size(kind: str) -> tuple[int, int]:
    """Return the number of values and of bytes in a block.

    Raises:
        CheckpointError: the type is not known.
    """
    if kind not in BLOCK_SIZES:
        raise CheckpointError(f"ggml type '{kind}' is not known; give a type such as q4_0")
    return BLOCK_SIZES[kind]
