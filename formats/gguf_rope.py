"""Rotary embeddings in GGUF: the base frequency, the scaling method, and scaling tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from gguf import GGUFWriter, RopeScalingType
from torch import Tensor
from transformers import PreTrainedConfig

from ..errors import ModelError

Rope = Mapping[str, Any]


def rope_of(config: PreTrainedConfig) -> Rope:
    """Return the rotary settings of the full-attention layers; sliding layers may have others."""
    rope: Rope = getattr(config, "rope_parameters", None) or {}
    full: Rope = rope.get("full_attention", rope)
    return full


def describe_rope(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    """Write the base frequency and the scaling.

    Raises:
        ModelError: llama.cpp does not support the scaling method.
    """
    rope = rope_of(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind not in _SCALINGS:
        raise ModelError(
            f"rope_type '{kind}' of {config.model_type} cannot be written as GGUF; "
            f"known: {', '.join(sorted(_SCALINGS))}"
        )
    _SCALINGS[kind](writer, rope, config)


def rope_tensors(config: PreTrainedConfig) -> dict[str, Tensor]:
    """Return the tensors with one scaling factor per frequency, by GGUF name, float32."""
    rope = rope_of(config)
    if rope.get("rope_type") == "llama3":
        return {"rope_freqs.weight": _llama3_factors(rope, _head_size(config))}
    if rope.get("rope_type") == "longrope":
        return {
            f"rope_factors_{length}.weight": torch.tensor(rope[f"{length}_factor"]).float()
            for length in ("long", "short")
        }
    return {}


def rotary_size(config: PreTrainedConfig) -> int:
    """Return how many values of a head are rotated."""
    return int(_head_size(config) * rope_of(config).get("partial_rotary_factor", 1.0))


def _head_size(config: PreTrainedConfig) -> int:
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)


def _plain(writer: GGUFWriter, rope: Rope, config: PreTrainedConfig) -> None:
    """Write nothing: there is no scaling, or a tensor holds all of it."""


def _linear(writer: GGUFWriter, rope: Rope, config: PreTrainedConfig) -> None:
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(rope["factor"])


def _yarn(writer: GGUFWriter, rope: Rope, config: PreTrainedConfig) -> None:
    unknown = sorted({"mscale", "mscale_all_dim"} & rope.keys())
    if unknown:
        raise ModelError(
            f"yarn with {' and '.join(unknown)} cannot be written as GGUF; save it as safetensors"
        )
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    optional = {
        "attention_factor": writer.add_rope_scaling_yarn_attn_factor,
        "beta_fast": writer.add_rope_scaling_yarn_beta_fast,
        "beta_slow": writer.add_rope_scaling_yarn_beta_slow,
    }
    for name, add in optional.items():
        if rope.get(name) is not None:
            add(rope[name])


def _longrope(writer: GGUFWriter, rope: Rope, config: PreTrainedConfig) -> None:
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    stretch = rope.get("factor") or config.max_position_embeddings / original
    factor = 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(original))
    writer.add_rope_scaling_attn_factors(rope.get("attention_factor") or factor)


_SCALINGS = {
    "default": _plain,
    "llama3": _plain,
    "linear": _linear,
    "yarn": _yarn,
    "longrope": _longrope,
}


def _llama3_factors(rope: Rope, size: int) -> Tensor:
    """Return the divisor of each frequency, [size / 2], by the rule of Llama 3.1.

    With c the original context length over the wavelength: 1 / divisor is 1 / factor for c below
    ``low_freq_factor``, 1 for c above ``high_freq_factor``, and linear in c between.
    """
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    frequencies = rope["rope_theta"] ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    waves = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    blend = ((waves - low) / (high - low)).clamp(0.0, 1.0)
    factors: Tensor = 1 / (blend + (1 - blend) / rope["factor"])
    return factors.float()
