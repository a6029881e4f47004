"""Bytes of every ggml type, against gguf's own quantiser and reader."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize

from birdbone.errors import CheckpointError
from birdbone.formats import ggml_encoding
from birdbone.formats.ggml_encoding import encode
from birdbone.formats.ggml_types import GgmlKind, ggml_type, tensor_bytes

VALUES = torch.randn(5, 256, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1"])
def test_it_is_what_gguf_writes(kind: GgmlKind) -> None:
    assert np.array_equal(encode(kind, VALUES, "x"), quantize(VALUES.numpy(), ggml_type(kind)))


@pytest.mark.parametrize("kind", ["q4_0", "q4_k", "q6_k"])
def test_chunks_change_nothing(kind: GgmlKind, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode(kind, VALUES, "x")
    monkeypatch.setattr(ggml_encoding, "_VALUES_PER_CHUNK", 512)
    assert np.array_equal(encode(kind, VALUES, "x"), whole)
    assert whole.size == tensor_bytes(kind, tuple(VALUES.shape))


@pytest.mark.parametrize(
    ("kind", "dtype"), [("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_plain_types_keep_each_value(kind: GgmlKind, dtype: torch.dtype) -> None:
    read = dequantize(encode(kind, VALUES, "x"), ggml_type(kind))
    assert np.array_equal(read, VALUES.to(dtype).float().numpy())


def test_a_value_too_large_for_float16_is_named() -> None:
    large = VALUES.clone()
    large[2, 3] = 1e6
    with pytest.raises(CheckpointError, match=r"'x' holds 1e\+06, which does not fit in float16"):
        encode("f16", large, "x")
    assert np.isfinite(dequantize(encode("bf16", large, "x"), ggml_type("bf16"))).all()
