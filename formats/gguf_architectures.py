"""What GGUF needs for each architecture: hyperparameters, row order and offsets of tensors.

An architecture is supported if `ARCHITECTURES` has a row for it. Settings of a supported
architecture that llama.cpp would ignore or compute differently are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from gguf import MODEL_ARCH, GGUFWriter
from torch import Tensor
from transformers import PreTrainedConfig

from ..errors import ModelError
from .gguf_rope import describe_rope, rope_of, rotary_size


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp represents one architecture.

    Attributes:
        arch: gguf's constant, which determines the tensor names.
        describe: writes the hyperparameters.
        required: config values that llama.cpp assumes; a config without such a key is accepted.
        check: refuses what ``required`` cannot express; returns warnings for the user.
        adjacent_pairs: whether the two values of a rotary pair are adjacent in the rows of q and k.
            In transformers they are half a head apart.
        norm_offset: added to the weights of norms.
        transposed: name endings of Conv1D weights, which are stored [in_features, out_features].
    """

    arch: MODEL_ARCH
    describe: Callable[[GGUFWriter, PreTrainedConfig], None]
    required: Mapping[str, Any]
    check: Callable[[PreTrainedConfig], tuple[str, ...]]
    adjacent_pairs: bool = False
    norm_offset: float = 0.0
    transposed: tuple[str, ...] = ()

    def is_transposed(self, name: str) -> bool:
        """Return whether the tensor is stored as [in_features, out_features]."""
        return name.removesuffix(".weight").endswith(self.transposed)

    def row_order(self, name: str, num_rows: int, config: PreTrainedConfig) -> Tensor | None:
        """Return the order of a tensor's rows in GGUF, int64 [rows], or None if unchanged."""
        heads = _rotated_heads(name, config) if self.adjacent_pairs else 0
        if not heads:
            return None
        halves = torch.arange(num_rows).view(heads, 2, -1)
        return halves.transpose(1, 2).reshape(-1)

    def offset(self, gguf_name: str) -> float:
        """Return what is added to the values of the tensor with this GGUF name."""
        return self.norm_offset if gguf_name.endswith("norm.weight") else 0.0


def architecture_of(config: PreTrainedConfig) -> tuple[Architecture, tuple[str, ...]]:
    """Return the architecture of a model and warnings for the user.

    Raises:
        ModelError: the architecture, or one of its settings, cannot be written as GGUF.
    """
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        raise ModelError(
            f"architecture '{config.model_type}' cannot be written as GGUF; "
            f"known: {', '.join(ARCHITECTURES)}"
        )
    for name, wanted in found.required.items():
        value = getattr(config, name, wanted)
        if value != wanted:
            raise _refusal(config, name, value, f"only {wanted!r}")
    return found, found.check(config)


def _refusal(config: PreTrainedConfig, name: str, value: object, holds: str) -> ModelError:
    return ModelError(
        f"{config.model_type} with {name}={value!r} cannot be written as GGUF: "
        f"llama.cpp computes {holds}; save it as safetensors"
    )


def _rotated_heads(name: str, config: PreTrainedConfig) -> int:
    """Return the number of heads of a query or key weight or bias; 0 for other tensors."""
    owner = name.split(".")[-2]
    if owner == "q_proj":
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if owner == "k_proj" else 0


def _describe_sizes(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _describe_attention(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    """Write what all architectures with a rotary embedding have in common."""
    _describe_sizes(writer, config)
    size = getattr(config, "head_dim", None)
    if size is not None:
        writer.add_key_length(size)
        writer.add_value_length(size)
    describe_rope(writer, config)


def _describe_llama(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    _describe_attention(writer, config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(rotary_size(config))


def _describe_gemma2(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    _describe_attention(writer, config)
    _describe_sliding(writer, config, period=2)
    if config.attn_logit_softcapping is not None:
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if config.final_logit_softcapping is not None:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _describe_gemma3(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    _describe_attention(writer, config)
    _describe_sliding(writer, config, period=6)
    if config.final_logit_softcapping is not None:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])


def _describe_sliding(writer: GGUFWriter, config: PreTrainedConfig, *, period: int) -> None:
    """Write the window, and the layers that use it unless it is all but every ``period``-th."""
    writer.add_sliding_window(config.sliding_window)
    slides = [kind == "sliding_attention" for kind in config.layer_types]
    if slides != [(index + 1) % period != 0 for index in range(len(slides))]:
        writer.add_sliding_window_pattern(slides)


def _describe_phi3(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    _describe_sizes(writer, config)
    writer.add_rope_dimension_count(rotary_size(config))
    writer.add_rope_scaling_orig_ctx_len(
        rope_of(config).get("original_max_position_embeddings")
        or config.original_max_position_embeddings
    )
    writer.add_sliding_window(config.sliding_window or 0)
    describe_rope(writer, config)


def _describe_gpt2(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def _nothing_more(config: PreTrainedConfig) -> tuple[str, ...]:
    return ()


def _check_window(config: PreTrainedConfig) -> tuple[str, ...]:
    """Warn if the model uses a sliding window, which llama.cpp ignores for these architectures."""
    window = getattr(config, "sliding_window", None)
    if window is None or window >= config.max_position_embeddings:
        return ()
    caution = (
        f"llama.cpp has no sliding window for {config.model_type}: beyond {window} tokens it "
        f"attends to more tokens than the model was trained with"
    )
    return (caution,)


def _check_heads_fill_width(config: PreTrainedConfig) -> tuple[str, ...]:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = config.num_attention_heads
    if heads * size != config.hidden_size:
        raise _refusal(
            config, "num_attention_heads", heads, f"heads of {config.hidden_size} values in all"
        )
    return ()


def _check_phi3(config: PreTrainedConfig) -> tuple[str, ...]:
    return _check_heads_fill_width(config) + _check_window(config)


def _check_gemma(config: PreTrainedConfig, *, layers_of_27b: int) -> tuple[str, ...]:
    """Refuse other attention scales than llama.cpp infers; the file does not store the scale.

    llama.cpp uses head_dim, except for the 27B model, which it recognises by its number of layers.
    """
    scale = config.head_dim
    if config.num_hidden_layers == layers_of_27b:
        scale = config.hidden_size // config.num_attention_heads
    if config.query_pre_attn_scalar != scale:
        raise _refusal(
            config, "query_pre_attn_scalar", config.query_pre_attn_scalar, f"only {scale}"
        )
    return ()


_SILU = {"hidden_act": "silu"}
_GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False}

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "llama": Architecture(
            MODEL_ARCH.LLAMA, _describe_llama, _SILU, _nothing_more, adjacent_pairs=True
        ),
        "mistral": Architecture(
            MODEL_ARCH.LLAMA, _describe_llama, _SILU, _check_window, adjacent_pairs=True
        ),
        "qwen2": Architecture(
            MODEL_ARCH.QWEN2,
            _describe_attention,
            {**_SILU, "use_sliding_window": False},
            _nothing_more,
        ),
        "qwen3": Architecture(
            MODEL_ARCH.QWEN3,
            _describe_attention,
            {**_SILU, "use_sliding_window": False},
            _nothing_more,
        ),
        "gemma2": Architecture(
            MODEL_ARCH.GEMMA2,
            _describe_gemma2,
            _GEMMA,
            lambda config: _check_gemma(config, layers_of_27b=46),
            norm_offset=1.0,
        ),
        "gemma3_text": Architecture(
            MODEL_ARCH.GEMMA3,
            _describe_gemma3,
            {**_GEMMA, "attn_logit_softcapping": None, "use_bidirectional_attention": False},
            lambda config: _check_gemma(config, layers_of_27b=62),
            norm_offset=1.0,
        ),
        "phi3": Architecture(MODEL_ARCH.PHI3, _describe_phi3, _SILU, _check_phi3),
        "gpt2": Architecture(
            MODEL_ARCH.GPT2,
            _describe_gpt2,
            {
                "activation_function": "gelu_new",
                "scale_attn_weights": True,
                "scale_attn_by_inverse_layer_idx": False,
                "add_cross_attention": False,
            },
            _check_heads_fill_width,
            transposed=("c_attn", "c_proj", "c_fc"),
        ),
    }
)
"""The supported architectures, by ``model_type``."""
