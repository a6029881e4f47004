"""Rows, offsets and settings of architectures as llama.cpp has them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_gguf import gguf_checkpoint

from birdbone.errors import ModelError
from birdbone.formats.gguf_architectures import ARCHITECTURES, architecture_of
from birdbone.models.blocks.empty_model import empty_model


def config_of(variant: str, **overrides: Any) -> Any:
    return empty_model(gguf_checkpoint(variant, **overrides)).config


def test_rotary_pairs_are_adjacent_in_llama() -> None:
    """llama.cpp's converter: (heads, 2, half, cols) with the middle axes exchanged."""
    config = config_of("llama")
    architecture, _ = architecture_of(config)
    rows = config.num_attention_heads * config.head_dim
    weight = torch.arange(rows * 2).view(rows, 2)
    order = architecture.row_order("model.layers.0.self_attn.q_proj.weight", rows, config)
    wanted = weight.view(config.num_attention_heads, 2, -1, 2).swapaxes(1, 2).reshape(rows, 2)
    assert torch.equal(weight[order], wanted)


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("llama", "model.layers.0.self_attn.v_proj.weight"),
        ("qwen3", "model.layers.0.self_attn.q_proj.weight"),
    ],
)
def test_other_rows_stay(variant: str, name: str) -> None:
    config = config_of(variant)
    assert architecture_of(config)[0].row_order(name, 32, config) is None


def test_gemma_s_norms_are_stored_with_one_added() -> None:
    architecture = ARCHITECTURES["gemma2"]
    assert architecture.offset("blk.0.attn_norm.weight") == 1.0
    assert architecture.offset("blk.0.attn_q.weight") == 0.0
    assert ARCHITECTURES["llama"].offset("blk.0.attn_norm.weight") == 0.0


def test_conv1d_is_transposed_and_its_bias_is_not_a_weight() -> None:
    architecture = ARCHITECTURES["gpt2"]
    assert architecture.is_transposed("transformer.h.0.attn.c_attn.weight")
    assert not architecture.is_transposed("transformer.wte.weight")
    assert not ARCHITECTURES["llama"].is_transposed("model.layers.0.mlp.up_proj.weight")


@pytest.mark.parametrize(
    ("variant", "overrides", "why"),
    [
        ("llama", {"hidden_act": "gelu"}, r"llama with hidden_act='gelu' .* only 'silu'"),
        ("qwen2", {"use_sliding_window": True}, r"use_sliding_window=True .* only False"),
        ("gemma3", {"query_pre_attn_scalar": 16}, r"query_pre_attn_scalar=16 .* only 8"),
    ],
)
def test_a_setting_it_would_compute_otherwise_is_named(
    variant: str, overrides: dict[str, Any], why: str
) -> None:
    with pytest.raises(ModelError, match=why):
        architecture_of(config_of(variant, **overrides))


@pytest.mark.parametrize(("window", "warned"), [(16, True), (None, False), (1 << 20, False)])
def test_a_window_is_warned_of_where_it_matters(window: int | None, warned: bool) -> None:
    _, cautions = architecture_of(config_of("mistral", sliding_window=window))
    assert [f"beyond {window} tokens" in each for each in cautions] == [True] * warned
