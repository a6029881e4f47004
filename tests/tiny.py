"""Tiny random models, with a tokenizer and text to match, for tests that need a whole model.

Every architecture that stores or calls something in its own way has a row here; a test over
`tiny_configs` covers them all. Everything comes from a local generator: same seed, same bytes.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from birdbone.checkpoints import Checkpoint
from birdbone.models.reading.opening import as_checkpoint
from birdbone.texts.windows import Windows

VOCAB = 128
_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
_MERGES = (
    "t h,th e,▁ the,i n,a n,▁ a,▁ o,e r,o n,r e,an d,▁ and,in g,e n,o r,▁ of,▁ t,▁ s,a t,e s,"
    "i s,▁ is,▁ in,o f,▁ w,▁ b,o u,▁ c"
)
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GROUPED = {**_SIZES, **_IDS, "num_key_value_heads": 2}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_SLIDING = {
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 8,
}
_GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, **_IDS}
_OPT = {key: value for key, value in _SIZES.items() if key != "intermediate_size"}
_FALCON = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}

tiny_configs: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": lambda **more: LlamaConfig(**{**_GROUPED, **more}),
    "llama_tied": lambda **more: LlamaConfig(**{**_GROUPED, "tie_word_embeddings": True, **more}),
    "qwen3": lambda **more: Qwen3Config(**{**_GROUPED, "head_dim": 16, **more}),
    "gemma3": lambda **more: Gemma3TextConfig(
        **{**_GROUPED, **_SLIDING, "head_dim": 8, "query_pre_attn_scalar": 8, **more}
    ),
    "gpt2": lambda **more: GPT2Config(**{**_GPT2, **more}),
    "opt": lambda **more: OPTConfig(
        **{**_OPT, **_IDS, "ffn_dim": 64, "word_embed_proj_dim": 32, **more}
    ),
    "gpt_neox": lambda **more: GPTNeoXConfig(**{**_SIZES, **_IDS, **more}),
    "phi3": lambda **more: Phi3Config(**{**_GROUPED, **more}),
    "mixtral": lambda **more: MixtralConfig(**{**_GROUPED, **_EXPERTS, **more}),
    "gpt_oss": lambda **more: GptOssConfig(
        **{**_GROUPED, **_EXPERTS, **_SLIDING, "head_dim": 8, "rope_parameters": _YARN, **more}
    ),
    "falcon": lambda **more: FalconConfig(**{**_FALCON, **_IDS, **more}),
}
"""Architecture to a maker of its config: 3 blocks, width 32, vocabulary 128, context 64.

Keyword arguments of a maker replace config values.
"""


def picture_config(*, vision_layers: int = 3) -> PreTrainedConfig:
    """Gemma 3 with a vision tower beside its three text blocks."""
    text = {**_GROUPED, **_SLIDING, "head_dim": 8, "query_pre_attn_scalar": 8}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": vision_layers,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    ids = {"image_token_index": 120, "boi_token_index": 121, "eoi_token_index": 122}
    return Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, **ids, **_IDS
    )


def tiny_model(arch: str = "llama", *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """`random_model` of the architecture; overrides go to its config."""
    return random_model(tiny_configs[arch](**overrides), seed=seed)


def random_model(config: PreTrainedConfig, *, seed: int = 0) -> PreTrainedModel:
    """A random float32 model in eval mode whose activations keep about unit size.

    The same ``seed`` gives the same bytes. Experts run one product each, as in bird-bone's replay.
    """
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = _random_like(parameter.data, generator)
    return model.eval()


def _random_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(tensor.shape, generator=generator)
    if tensor.ndim > 1:
        return noise / 32**0.5
    # Norm weights and biases stay near the constant they begin as; all else is random anyway.
    constant = tensor.numel() > 0 and bool((tensor == tensor[0]).all())
    return noise * 0.1 + (tensor[0] if constant else 0.0)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE tokenizer of exactly 128 tokens over printable ASCII; pad 0, bos 1, eos 2, unk 3."""
    merges = [tuple(pair.split(" ")) for pair in _MERGES.split(",")]
    characters = [*string.digits, *string.ascii_letters, *string.punctuation, "\n", "▁"]
    tokens = [*_SPECIAL, *characters, *("".join(pair) for pair in merges)]
    vocab = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
    )


def tiny_checkpoint(arch: str = "llama", *, seed: int = 0, **overrides: Any) -> Checkpoint:
    """`tiny_model` with `tiny_tokenizer` as a checkpoint in memory; overrides go to the config."""
    model = tiny_model(arch, seed=seed, **overrides)
    return as_checkpoint(model, tiny_tokenizer(), source=f"tiny/{arch}")


def tiny_windows(
    num: int = 4, length: int = 16, *, vocab: int = VOCAB, seed: int = 0, text: str = "tiny words"
) -> Windows:
    """Windows of random tokens, special ones left out; different seeds give different windows."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(len(_SPECIAL), vocab, (num, length), generator=generator)
    return Windows(tokens, text)
