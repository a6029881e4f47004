"""The KV cache's bytes are those of the cache that transformers keeps."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_checkpoint, tiny_model
from transformers import MambaConfig

from birdbone.checkpoints import Checkpoint
from birdbone.errors import SettingError
from birdbone.models.planning.kv_cache import kv_cache_bytes

_TOKENS = 24


@pytest.mark.parametrize(
    ("arch", "windows"),
    [
        *(("llama", 0), ("qwen3", 0), ("gemma3", 2), ("gpt2", 0), ("opt", 0), ("gpt_neox", 0)),
        *(("phi3", 0), ("mixtral", 0), ("gpt_oss", 2)),
    ],
)
def test_as_transformers_keeps_it(arch: str, windows: int) -> None:
    """But for one token in each of ``windows`` layers with a window, which it keeps one short."""
    tokens = torch.arange(4, 4 + _TOKENS)[None]
    with torch.no_grad():
        cache = tiny_model(arch)(tokens, use_cache=True).past_key_values
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    kept = sum(key.nbytes + value.nbytes for key, value in layers)
    token = 2 * layers[0][0][..., :1, :].nbytes
    assert kv_cache_bytes(tiny_checkpoint(arch), _TOKENS, 4) == kept + windows * token


def test_a_short_context_fits_the_window() -> None:
    one, eight, nine = (kv_cache_bytes(tiny_checkpoint("gemma3"), n, 2) for n in (1, 8, 9))
    assert eight == 8 * one
    assert nine - eight == one // 3  # the one layer without a window


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kv_lora_rank": 4}, "it has kv_lora_rank in its config; give a budget of bytes"),
        ({"multi_query": True}, "has multi_query in its config"),
        ({"layer_types": ["linear_attention"] * 3}, "layers that cache as LinearAttentionLayer"),
    ],
)
def test_other_layers_are_refused(config: dict[str, object], message: str) -> None:
    checkpoint = tiny_checkpoint("llama").evolve(config=config)
    with pytest.raises(SettingError, match=message):
        kv_cache_bytes(checkpoint, 8, 2)


def test_a_model_without_attention_is_refused() -> None:
    config = MambaConfig(hidden_size=8, num_hidden_layers=1, vocab_size=8).to_dict()
    with pytest.raises(SettingError, match="has no attention heads in its config"):
        kv_cache_bytes(Checkpoint(config, {}), 8, 2)
