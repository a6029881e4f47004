"""Tiny configs of every causal language model that transformers can build.

One table of small sizes serves all architectures: a config takes the entries whose names it has.
What an architecture needs beyond it stands in `SPECIAL`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tiny import VOCAB
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

MODEL_TYPES: tuple[str, ...] = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
"""Every model type with a causal language model in the installed transformers."""

WIDTH, LAYERS, HEADS, HEAD, CONTEXT = 64, 2, 4, 16, 64

_WIDTHS = (
    "hidden_size d_model n_embd dim emb_dim embed_dim embedding_size input_embedding_size "
    "output_embedding_size backbone_hidden_size word_embed_proj_dim rnn_width lru_width "
    "attention_hidden_size target_hidden_size"
)
_INNER = (
    "intermediate_size ffn_dim n_inner dim_ff dff d_inner ffn_hidden_size feed_forward_size "
    "decoder_ffn_dim encoder_ffn_dim expert_ffn_hidden_size intermediate_size_mlp "
    "dense_intermediate_size shared_intermediate_size d_ff"
)
_LAYERS = (
    "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers "
    "num_decoder_layers num_encoder_layers"
)
_HEADS = (
    "num_attention_heads n_head n_heads num_heads decoder_attention_heads "
    "encoder_attention_heads attention_heads num_decoder_attention_heads "
    "num_encoder_attention_heads index_n_heads swa_num_attention_heads"
)
_HEAD = (
    "head_dim kv_channels qk_nope_head_dim v_head_dim index_head_dim swa_head_dim d_kv "
    "linear_key_head_dim linear_value_head_dim linear_head_dim mamba_head_dim attention_head_size "
    "query_pre_attn_scalar global_head_dim"
)
_CONTEXT = (
    "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions context_length "
    "max_sequence_length max_source_positions"
)
_EXPERTS = "num_experts n_routed_experts num_local_experts moe_num_experts"
_EXPERT_INNER = (
    "moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size "
    "moe_shared_expert_intermediate_size expert_intermediate_size"
)
_CHOSEN = "num_experts_per_tok moe_k moe_topk num_selected_experts moe_top_k top_k_experts"
_TWO = "num_key_value_heads num_kv_heads num_key_value_groups swa_num_key_value_heads n_kv_heads"

_SIZES: dict[str, Any] = {
    **dict.fromkeys(_WIDTHS.split(), WIDTH),
    **dict.fromkeys(_INNER.split(), WIDTH),
    **dict.fromkeys(_LAYERS.split(), LAYERS),
    **dict.fromkeys(_HEADS.split(), HEADS),
    **dict.fromkeys(_HEAD.split(), HEAD),
    **dict.fromkeys(_CONTEXT.split(), CONTEXT),
    **dict.fromkeys(_EXPERTS.split(), 4),
    **dict.fromkeys(_EXPERT_INNER.split(), 32),
    **dict.fromkeys(_CHOSEN.split(), 2),
    **dict.fromkeys(_TWO.split(), 2),
    "is_decoder": True,
    "vocab_size": VOCAB,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "sep_token_id": 2,
    "cls_token_id": 1,
    "sliding_window": 8,
    "local_attention": 8,
    "attention_chunk_size": 8,
    "attention_window_size": 8,
    "rotary_dim": 8,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "index_topk": 8,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_groups": 1,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "state_size": 16,
    "ssm_state_size": 16,
    "chunk_size": 8,
    "mamba_chunk_size": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_num_heads": 8,
    "n_mamba_heads": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_num_heads": 4,
    "vocab_size_per_layer_input": VOCAB,
    "hidden_size_per_layer_input": 16,
    "laurel_rank": 8,
    "num_kv_shared_layers": 0,
    "image_size": 28,
    "patch_size": 14,
    "num_codebooks": 2,
    "audio_vocab_size": 32,
}

_VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
_SEEING = {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
_BYTES = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 260}

# Both hybrid blocks have the same weights.
_ZAMBA = {
    "num_hidden_layers": 6,
    "layers_block_type": ["linear_attention", "linear_attention", "hybrid"] * 2,
}

_HYBRID = ["linear_attention", "full_attention"]

# The last two of four blocks use the keys and values of the first two.
_SHARED = {
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}

SPECIAL: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_types": _HYBRID},
    "bamba": {"attn_layer_indices": [1]},
    "blt": {
        "vocab_size": 260,
        "encoder_hash_byte_group_vocab": 64,
        "patcher_config": _BYTES,
        "encoder_config": {**_BYTES, "hidden_size_global": 64},
        "decoder_config": {**_BYTES, "hidden_size_global": 64},
    },
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "cpmant": {"prompt_types": 4, "prompt_length": 4, "segment_types": 4},
    "dbrx": {
        "attn_config": {"clip_qkv": 8.0, "kv_n_heads": 2, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v4": {"o_groups": 2, "o_lora_rank": 16, "num_key_value_heads": 1},
    "dots1": {"n_shared_experts": 1, "first_k_dense_replace": 1},
    "dots3_note": {
        "text_config": {"num_key_value_heads": 4},
        "vision_config": {
            "mlp_layer_types": ["dense", "dense"],
            "adapter_in_dim": 64,
            "adapter_out_dim": 64,
        },
        "audio_config": {"adapter_input_size": 64, "adapter_out_dim": 64},
    },
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3": {
        "mm_tokens_per_image": 4,
        "vision_config": {**_VISION, **_SEEING},
    },
    "gemma4_assistant": {
        "backbone_hidden_size": 64,
        "text_config": {
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    },
    "gemma4_unified_assistant": {
        "backbone_hidden_size": 64,
        "text_config": {
            "num_kv_shared_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    },
    "gemma3n_text": _SHARED,
    "gemma4_text": _SHARED,
    "gemma4_unified_text": _SHARED,
    "got_ocr2": {
        "vision_config": {
            **_VISION,
            **_SEEING,
            "mlp_dim": 32,
            "output_channels": 16,
            "global_attn_indexes": [0],
            "window_size": 2,
        }
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": _HYBRID},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {"zero_expert_num": 2, "num_key_value_heads": 4},
    "mamba2": {"num_heads": 8},
    "moss_transcribe_diarize": {"audio_config": {"hidden_size": 32, "num_mel_bins": 16}},
    "phi4_multimodal": {
        "vision_config": {**_VISION, **_SEEING, "crop_size": 28},
        "audio_config": {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 32,
            "depthwise_separable_out_channel": 32,
            "nemo_conv_channels": 32,
            "input_size": 16,
        },
    },
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [32, 32],
        "local_attn_chunk_length": 16,
        "lsh_attn_chunk_length": 16,
        "num_buckets": 4,
    },
    "roc_bert": {
        "pronunciation_vocab_size": 32,
        "pronunciation_embed_dim": 32,
        "shape_vocab_size": 32,
        "shape_embed_dim": 32,
    },
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {**_ZAMBA, "attention_hidden_size": 2 * WIDTH},
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "linear_attention"],
    },
    "zaya": {"num_experts_per_tok": 1},
}
"""Model type to entries that only this architecture needs; nested ones belong to a sub-config."""


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3n_text, nothing shared": ("gemma3n_text", {**_SHARED, "num_kv_shared_layers": 0}),
    "gemma4_text, nothing shared": ("gemma4_text", {**_SHARED, "num_kv_shared_layers": 0}),
    "gemma4_text, double-wide": ("gemma4_text", {**_SHARED, "use_double_wide_mlp": True}),
    "gemma4_text, experts": ("gemma4_text", {**_SHARED, "enable_moe_block": True}),
    "gemma4_text, equal keys and values": ("gemma4_text", {**_SHARED, "attention_k_eq_v": True}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "gpt_neox, sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "mamba, rescaled": ("mamba", {"rescale_prenorm_residual": True}),
    "zamba2, shared": ("zamba2", _ZAMBA),
    "qwen2, sliding": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}),
}
"""Other forms of an architecture that take another way through it, by a name for the table."""

ALL: tuple[str, ...] = (*MODEL_TYPES, *VARIANTS)


def zoo_config(name: str) -> PreTrainedConfig:
    """A tiny config of a model type or variant: a few blocks, width 64, vocabulary 128."""
    model_type, special = VARIANTS.get(name, (name, SPECIAL.get(name, {})))
    return _config(CONFIG_MAPPING[model_type], special)


def _config(kind: type[PreTrainedConfig], special: dict[str, Any]) -> PreTrainedConfig:
    return kind(**_entries(kind, special))


def _entries(kind: type[PreTrainedConfig], special: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    entries = {name: value for name, value in _SIZES.items() if name in names}
    if "qk_rope_head_dim" in names:  # latent attention: every head has keys of its own
        entries |= {"num_key_value_heads": HEADS} if "num_key_value_heads" in names else {}
        entries |= {"head_dim": entries["qk_rope_head_dim"]} if "head_dim" in names else {}
    for name, part in kind.sub_configs.items():
        if name in names:
            entries[name] = _nested(kind, name, part, special.get(name, {}))
    ours = {name: value for name, value in special.items() if name not in kind.sub_configs}
    return {**entries, **ours}


def _nested(
    kind: type[PreTrainedConfig], name: str, part: Any, special: dict[str, Any]
) -> dict[str, Any]:
    """The entries of one part, whose class may be that of a default model type."""
    if dataclasses.is_dataclass(part):
        return _entries(part, special)
    chosen = getattr(kind, "sub_configs_defaults", {})[name].model_type
    return {"model_type": chosen, **_entries(CONFIG_MAPPING[chosen], special)}
