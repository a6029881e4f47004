"""Tiny models of every architecture that GGUF is written of, with tokenizers that fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import GGUFReader, GGUFValueType, GGUFWriter
from tiny import _GROUPED, _SLIDING, random_model, tiny_configs
from tiny_tokenizers import byte_level, sentencepiece
from transformers import Gemma2Config, MistralConfig, PreTrainedTokenizerBase, Qwen2Config

from birdbone.checkpoints import Checkpoint
from birdbone.models.reading.opening import as_checkpoint

_MORE = {
    "mistral": lambda **more: MistralConfig(**{**_GROUPED, "head_dim": 8, **more}),
    "qwen2": lambda **more: Qwen2Config(**{**_GROUPED, **more}),
    "gemma2": lambda **more: Gemma2Config(
        **{**_GROUPED, **_SLIDING, "head_dim": 8, "query_pre_attn_scalar": 8, **more}
    ),
}
_LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
_HOLLOWED = {
    "intermediate_size": 40,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "num_hidden_layers": 2,
}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama_tied", {}),
    "llama hollowed": ("llama", _HOLLOWED),
    "llama with biases": ("llama", {"attention_bias": True}),
    "llama 3 rope": ("llama", {"rope_parameters": _LLAMA_3}),
    "llama yarn": ("llama", {"rope_parameters": _YARN}),
    "llama linear rope": ("llama", {"rope_parameters": _LINEAR}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "qwen3 hollowed": ("qwen3", _HOLLOWED),
    "gemma2": ("gemma2", {}),
    "gemma3": ("gemma3", {}),
    "phi3": ("phi3", {"sliding_window": None}),
    "phi3 long": (
        "phi3",
        {
            "sliding_window": None,
            "rope_parameters": _LONG,
            "original_max_position_embeddings": 256,
            "max_position_embeddings": 1024,
        },
    ),
    "gpt2": ("gpt2", {}),
    "gpt2 hollowed": ("gpt2", {"n_inner": 48}),
}
"""By what is particular about it: the architecture and the config values that make it so."""


def gguf_checkpoint(variant: str = "llama", **overrides: Any) -> Checkpoint:
    """A tiny model with a byte-level tokenizer, or Gemma's and Phi-3's own kind."""
    arch, values = VARIANTS[variant]
    tokenizer = sentencepiece(prefix=arch == "phi3") if arch[:3] in ("gem", "phi") else byte_level()
    return checkpoint_with(tokenizer, arch, **{**values, **overrides})


def checkpoint_with(
    tokenizer: PreTrainedTokenizerBase, arch: str = "llama", **overrides: Any
) -> Checkpoint:
    """A tiny model with as many rows in its embedding as the tokenizer has tokens, and three."""
    overrides.setdefault("vocab_size", len(tokenizer) + 3)
    config = {**tiny_configs, **_MORE}[arch](**overrides)
    return as_checkpoint(random_model(config), tokenizer, source="tiny")


def split_gguf(
    whole: Path, folder: Path, num_parts: int = 3, *, tensors_in_first: bool = True
) -> list[Path]:
    """A GGUF file in several, as ``llama-gguf-split`` writes them."""
    folder.mkdir(exist_ok=True)
    reader = GGUFReader(whole)
    holding = num_parts if tensors_in_first else num_parts - 1
    shared = [reader.tensors[place::holding] for place in range(holding)]
    parts = [[]] * (num_parts - holding) + shared
    paths = [
        folder / f"model-{number:05}-of-{num_parts:05}.gguf" for number in range(1, num_parts + 1)
    ]
    for number, (path, tensors) in enumerate(zip(paths, parts, strict=True)):
        writer = GGUFWriter(path, reader.fields["general.architecture"].contents())
        if number == 0:
            _copy_keys(reader, writer)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", num_parts)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths


def _copy_keys(reader: GGUFReader, writer: GGUFWriter) -> None:
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
