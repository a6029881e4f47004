"""The config of a GGUF model: what transformers reads of the header, and what it skips.

transformers 5.23 reads sizes and the base frequency. It skips the length of heads, the scaling of
rotary frequencies, the pattern of sliding layers, Gemma's attention scale and biases, and uses the
defaults of the class instead, so the model would load and compute something else. They are read
here with the meaning they have in llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

from .gguf_head import Head, read_head
from .gguf_keys import Keys, keys_of
from .gguf_rope_scaling import read_rope

_OWN_READERS = ("gemma4", "gpt-oss", "lfm2", "mamba", "t5", "t5encoder")
"""Architectures that transformers reads by rules of its own, or without the keys below."""

_RENAMED = {
    "gpt-oss": "gpt_oss",
    "minimax-m2": "minimax_m2",
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
}
"""llama.cpp's names of architectures to those of transformers, where they differ."""

_LAYERS_OF_27B = {"gemma2": 46, "gemma3_text": 62}
"""By which llama.cpp recognises the models whose attention is scaled by the width per head."""

_READ_HERE = (
    "attention.key_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.value_length",
    "attn_logit_softcapping",
    "context_length",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "expert_weights_norm",
    "feed_forward_length",
    "final_logit_softcapping",
    "rope.dimension_count",
    "rope.freq_base_swa",
    "rope.scale_linear",
)
_NOTHING_COMPUTED = ("attention.causal", "rope.scaling.finetuned", "tensor_data_layout")


def gguf_config(*paths: Path) -> PreTrainedConfig:
    """The config of a GGUF model, without parsing its vocabulary.

    Args:
        paths: the file, or all files of a split model in order.

    Raises:
        ValueError: as `read_head`, or a header that describes no model of the class; transformers
            raises other errors too.
    """
    head = read_head(*paths)
    with head.as_file() as short:
        config: PreTrainedConfig = AutoConfig.from_pretrained(short.parent, gguf_file=short.name)
    if head.num_tokens is not None and not head.says_size:
        config.vocab_size = head.num_tokens
    keys = keys_of(head)
    if keys.arch not in _OWN_READERS:
        for correct in _CORRECTIONS:
            correct(config, keys)
        read_rope(config, keys, paths)
    return config


def unread_keys(head: Head) -> list[str]:
    """Keys of the architecture in the header that are read neither by transformers nor here."""
    keys = keys_of(head)
    mapped: Any = GGUF_CONFIG_MAPPING.get(_RENAMED.get(keys.arch, keys.arch), {})
    known = {*mapped, *_READ_HERE, *_NOTHING_COMPUTED}
    if keys.arch in _OWN_READERS:
        return []
    return sorted(
        f"{keys.arch}.{name}"
        for name in keys.own
        if name not in known and not name.startswith("rope.scaling.")
    )


def _heads(config: Any, keys: Keys) -> None:
    """Length of heads, by default the width divided by their number."""
    heads, width = (getattr(config, name, None) for name in ("num_attention_heads", "hidden_size"))
    if not (isinstance(heads, int) and isinstance(width, int) and heads > 0):
        return
    usual = width // heads
    length = keys.integer("attention.key_length") or usual
    of_values = keys.integer("attention.value_length") or length
    if of_values != length:
        raise ValueError(
            f"its heads have keys of {length} and values of {of_values} numbers, and only heads "
            f"with as long values as keys are read"
        )
    if (getattr(config, "head_dim", None) or usual) != length:
        config.head_dim = length


def _biases(config: Any, keys: Keys) -> None:
    """Biases that the class has only if its config says so."""
    for name, ending in (("attention_bias", ".attn_q.bias"), ("mlp_bias", ".ffn_up.bias")):
        if hasattr(config, name):
            setattr(config, name, any(each.endswith(ending) for each in keys.tensors))


def _gemma_scale(config: Any, keys: Keys) -> None:
    """The attention scale, which llama.cpp infers: head_dim, except for the 27B models."""
    if config.model_type in _LAYERS_OF_27B:
        large = config.num_hidden_layers == _LAYERS_OF_27B[config.model_type]
        width = config.hidden_size // config.num_attention_heads
        config.query_pre_attn_scalar = width if large else config.head_dim


def _softcaps(config: Any, keys: Keys) -> None:
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if hasattr(config, name) and (cap := keys.number(name)):
            setattr(config, name, cap)


def _sliding_layers(config: Any, keys: Keys) -> None:
    """Which layers have a sliding window, where it is not the class's own pattern."""
    if config.model_type == "phi3":
        config.sliding_window = keys.integer("attention.sliding_window") or None
    pattern = keys.own.get("attention.sliding_window_pattern")
    layers = getattr(config, "num_hidden_layers", 0)
    if pattern is None or not hasattr(config, "layer_types"):
        return
    if isinstance(pattern, int) and pattern > 0:
        pattern = [(place + 1) % pattern != 0 for place in range(layers)]
    if not isinstance(pattern, list) or len(pattern) != layers:
        raise ValueError(f"its pattern of sliding layers is not one of {layers} layers")
    config.layer_types = ["sliding_attention" if each else "full_attention" for each in pattern]


def _gpt2_sizes(config: Any, keys: Keys) -> None:
    if config.model_type == "gpt2":
        config.n_positions = keys.integer("context_length") or config.n_positions
        inner = keys.integer("feed_forward_length")
        config.n_inner = None if inner == 4 * config.n_embd else inner


def _experts(config: Any, keys: Keys) -> None:
    sizes = {
        "moe_intermediate_size": "expert_feed_forward_length",
        "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    }
    for name, key in sizes.items():
        if hasattr(config, name) and (size := keys.integer(key)):
            setattr(config, name, size)
    if hasattr(config, "norm_topk_prob") and "expert_weights_norm" in keys.own:
        config.norm_topk_prob = bool(keys.own["expert_weights_norm"])


_CORRECTIONS: tuple[Callable[[Any, Keys], None], ...] = (
    _heads,
    _biases,
    _gemma_scale,
    _softcaps,
    _sliding_layers,
    _gpt2_sizes,
    _experts,
)
