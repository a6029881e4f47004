"""Write a low-rank correction as a LoRA adapter of PEFT beside the weights it corrects.

LoRA (https://arxiv.org/abs/2106.09685) computes ``W + (alpha / r) B A``; with alpha = r this is the
correction as solved. The model's own files do not refer to it: the folder loads without, and
``PeftModel.from_pretrained(model, "FOLDER/adapter")`` adds it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ...checkpoints import Checkpoint
from ...errors import MissingExtraError
from ..blocks.linears import Linear

FOLDER = "adapter"
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_FILES = (f"{FOLDER}/{_CONFIG}", f"{FOLDER}/{_WEIGHTS}")
# Prefix of parameter names in PEFT's wrapper around a model.
_PREFIX = "base_model.model."


def require_peft(method: str) -> None:
    """Check that PEFT is installed, which trains the adapters of a healing method.

    Raises:
        MissingExtraError: it is not.
    """
    if find_spec("peft") is None:
        raise MissingExtraError(
            f"heal(method='{method}') needs the package peft; install birdbone[peft], or use "
            f"method='blocks' or 'full'"
        )


def has_adapter(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint has a correction adapter."""
    return ADAPTER_FILES[0] in checkpoint.files


def adapter_files(
    factors: Mapping[Linear, tuple[Tensor, Tensor]],
    *,
    rank: int,
    dtype: torch.dtype,
) -> dict[str, bytes]:
    """The adapter's files by name; the same factors give the same bytes.

    Args:
        factors: B ``[out_features, rank]`` and A ``[rank, in_features]`` of every plain linear.
        dtype: dtype they are stored in.
    """
    tensors: dict[str, Tensor] = {}
    for linear, (left, right) in factors.items():
        path = _PREFIX + linear.name
        tensors[f"{path}.lora_B.weight"] = left.to(dtype).cpu().contiguous()
        tensors[f"{path}.lora_A.weight"] = right.to(dtype).cpu().contiguous()
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted(linear.name for linear in factors),
    }
    return {
        f"{FOLDER}/{_CONFIG}": (json.dumps(config, indent=2) + "\n").encode(),
        f"{FOLDER}/{_WEIGHTS}": save(dict(sorted(tensors.items())), {"format": "pt"}),
    }
