"""Tiny folders whose weights are stored as small floats, as published models have them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny import VOCAB, random_model, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import DeepseekV3Config, PreTrainedModel, Qwen3MoeConfig

LARGEST = 448.0  # of float8_e4m3fn

_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def deepseek_v3(**more: Any) -> PreTrainedModel:
    """DeepSeek-V3 with one dense block and two of experts; its 40 rows of kv_a_proj are ragged."""
    return random_model(
        DeepseekV3Config(
            **{
                **_SIZES,
                "num_key_value_heads": 4,
                "n_routed_experts": 4,
                "num_experts_per_tok": 2,
                "n_group": 2,
                "topk_group": 1,
                "first_k_dense_replace": 1,
                "q_lora_rank": 32,
                "kv_lora_rank": 32,
                "qk_rope_head_dim": 8,
                "qk_nope_head_dim": 16,
                "v_head_dim": 16,
                **more,
            }
        )
    )


def qwen3_moe(**more: Any) -> PreTrainedModel:
    """Qwen3-MoE, whose folders hold every expert by itself."""
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2, "head_dim": 16}
    return random_model(Qwen3MoeConfig(**{**_SIZES, **sizes, **more}))


def save_float8(
    folder: Path,
    model: PreTrainedModel,
    *,
    block: tuple[int, int] | None = (32, 32),
    scale: str = "weight_scale_inv",
    exponents: bool = False,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """A folder of the model with its linears in float8, like the releases.

    Args:
        block: rows and columns per scale; None for one scale per tensor.
        scale: what scales are called in their module.
        exponents: scales are powers of two, stored as exponents (float8_e8m0fnu).
        dtype: of everything else.
    """

    def change(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        stored = {}
        for name, weight in weights.items():
            if not _is_quantised(name, weight):
                stored[name] = weight.to(dtype)
                continue
            codes, scales = float8(weight.float(), block, exponents=exponents)
            stored[name] = codes
            stored[f"{name.removesuffix('weight')}{scale}"] = scales
        return stored

    settings = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": None if block is None else list(block),
        **({"scale_fmt": "ue8m0"} if exponents else {}),
    }
    return _saved(folder, model, change, settings, dtype)


def float8(
    weight: Tensor, block: tuple[int, int] | None, *, exponents: bool = False
) -> tuple[Tensor, Tensor]:
    """Float8 codes ``[rows, columns]`` and scales ``[row_blocks, column_blocks]``, or one."""
    rows, columns = weight.shape
    height, width = block or (rows, columns)
    grid = math.ceil(rows / height), math.ceil(columns / width)
    padded = torch.zeros(grid[0] * height, grid[1] * width)
    padded[:rows, :columns] = weight
    blocks = padded.reshape(grid[0], height, grid[1], width)
    scales = blocks.abs().amax((1, 3)) / LARGEST
    if exponents:
        scales = scales.log2().ceil().exp2()
    codes = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
    codes = codes.reshape(padded.shape)[:rows, :columns].contiguous()
    scales = scales if block else scales.reshape(())
    return codes, scales.to(torch.float8_e8m0fnu) if exponents else scales


def save_mxfp4(folder: Path, *, dtype: torch.dtype = torch.bfloat16, **config: Any) -> Path:
    """A tiny GPT-OSS folder with random MXFP4 experts, like the releases."""
    generator = torch.Generator().manual_seed(0)

    def change(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        stored = {}
        for name, weight in weights.items():
            if not name.endswith(("gate_up_proj", "down_proj")):
                stored[name] = weight.to(dtype)
                continue
            experts, columns, rows = weight.shape
            shape = (experts, rows, columns // 32)
            stored[f"{name}_blocks"] = torch.randint(
                256, (*shape, 16), generator=generator, dtype=torch.uint8
            )
            stored[f"{name}_scales"] = torch.randint(
                122, 125, shape, generator=generator, dtype=torch.uint8
            )
        return stored

    model = tiny_model("gpt_oss", **config)
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.embed_tokens"]}
    return _saved(folder, model, change, settings, dtype)


def _is_quantised(name: str, weight: Tensor) -> bool:
    kept = ("embed_tokens", "lm_head", "norm", "mlp.gate.")
    return weight.ndim == 2 and not any(part in name for part in kept)


def _saved(
    folder: Path,
    model: PreTrainedModel,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    settings: Mapping[str, Any],
    dtype: torch.dtype,
) -> Path:
    model.save_pretrained(folder)
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"quantization_config": dict(settings), "dtype": str(dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(config))
    tiny_tokenizer().save_pretrained(folder)
    return folder
