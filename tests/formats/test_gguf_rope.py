"""Frequencies are stretched as transformers stretches them."""

from __future__ import annotations

import torch
from tiny_gguf import VARIANTS
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from birdbone.formats.gguf_rope import rope_tensors


def test_llama_3_factors_are_transformers_own() -> None:
    values = {**VARIANTS["llama 3 rope"][1]["rope_parameters"], "rope_theta": 500000.0}
    config = LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=values)
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500000.0 ** -(torch.arange(0, 128, 2) / 128)
    (factors,) = rope_tensors(config).values()
    assert factors.unique().numel() > 3  # the blend is in it, not the ends alone
    torch.testing.assert_close(plain / stretched, factors, rtol=1e-5, atol=0)
