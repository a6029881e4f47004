"""Which ggml type a tensor gets, and how many bytes that takes."""

from __future__ import annotations

import pytest
from gguf import GGML_QUANT_SIZES

from birdbone.formats.ggml_types import (
    FILE_TYPES,
    GGML_KINDS,
    GgmlKind,
    ggml_type,
    kind_for_tensor,
    kind_for_width,
    smallest_kind,
    tensor_bytes,
)


@pytest.mark.parametrize("kind", GGML_KINDS)
def test_every_kind_is_known_to_gguf(kind: GgmlKind) -> None:
    values, size = GGML_QUANT_SIZES[ggml_type(kind)]
    assert tensor_bytes(kind, (3, 512)) == 3 * 512 // values * size
    assert kind in FILE_TYPES


def test_a_width_that_blocks_do_not_divide_has_a_fallback() -> None:
    assert [kind_for_width("q4_k", width) for width in (256, 576, 40)] == ["q4_k", "q5_0", "f16"]
    assert [kind_for_width("q6_k", width) for width in (512, 576, 40)] == ["q6_k", "q8_0", "f16"]
    assert kind_for_width("q8_0", 40) == "f16"
    assert [kind_for_width(kind, 576) for kind in ("q2_k", "q3_k", "q5_k", "iq4_nl")] == [
        *("iq4_nl", "iq4_nl", "q5_0", "iq4_nl")
    ]


@pytest.mark.parametrize(
    ("kind", "name", "shape", "is_head", "expected"),
    [
        ("q4_k", "blk.0.attn_norm.weight", (256,), False, "f32"),
        ("q4_k", "position_embd.weight", (64, 256), False, "f32"),
        ("q4_k", "output.weight", (64, 256), True, "q6_k"),
        ("q4_0", "output.weight", (64, 96), True, "q8_0"),
        ("q8_0", "output.weight", (64, 256), True, "q8_0"),
        ("bf16", "output.weight", (64, 256), True, "bf16"),
        ("q4_k", "blk.0.ffn_up.weight", (64, 96), False, "q5_0"),
    ],
)
def test_a_tensor_s_type_is_llama_cpp_s(
    kind: GgmlKind, name: str, shape: tuple[int, ...], is_head: bool, expected: str
) -> None:
    assert kind_for_tensor(kind, name, shape, is_head=is_head) == expected


def test_the_smallest_has_the_fewest_bits() -> None:
    assert smallest_kind(["q8_0", "q4_k", "q5_0"]) == "q4_k"
    assert smallest_kind(["no such type"]) is None
