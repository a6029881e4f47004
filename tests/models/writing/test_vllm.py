"""Folders of compressed-tensors are computed by vLLM much as transformers does; `make consumers`.

Needs an environment of its own, since vLLM pins other versions: BIRDBONE_VLLM_PYTHON names its
Python.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from tiny_contexts import calibrated
from tiny_folders import plain_logits, written
from torch import Tensor

from birdbone.checkpoints import Checkpoint
from birdbone.engine import run
from birdbone.links import quantize

PYTHON = os.environ.get("BIRDBONE_VLLM_PYTHON")
SCRIPT = Path(__file__).parents[2] / "vllm_scores.py"


def in_vllm(folder: Path, tokens: Tensor, aside: Path) -> Tensor:
    """Log-probabilities of the tokens but the first of each window."""
    assert PYTHON is not None
    given, out = aside / "windows.json", aside / "scores.json"
    given.write_text(json.dumps(tokens.tolist()))
    command = [PYTHON, str(SCRIPT), str(folder), str(given), str(out)]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, env=clean)
    return torch.tensor(json.loads(out.read_text()))


FORMATS: dict[str, dict[str, Any]] = {
    "int4": {"bits": 4, "group_size": 64},
    "int8 inputs": {"bits": 8, "group_size": None, "input_activations": "int8"},
    "fp8 inputs": {"grid": "fp8", "input_activations": "fp8"},
    "fp8": {"grid": "fp8"},
    "fp8 blocks, inputs": {"grid": "fp8", "block_size": 128, "input_activations": "fp8"},
    "fp8 blocks": {"grid": "fp8", "block_size": 128},
    "mxfp4": {"grid": "mxfp4"},
    "nvfp4": {"grid": "nvfp4"},
}


# Heads of 32, and every matrix in whole blocks of 128, as its kernels need.
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 4}
NO_VLLM = "BIRDBONE_VLLM_PYTHON names no Python with vLLM"


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason=NO_VLLM)
@pytest.mark.parametrize("settings", FORMATS.values(), ids=FORMATS)
async def test_vllm_computes_what_transformers_does(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    await compare(tiny_checkpoint("llama_tied", **SIZES), settings, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason=NO_VLLM)
async def test_vllm_computes_with_packed_experts(tmp_path: Path) -> None:
    await compare(tiny_checkpoint("mixtral", **SIZES), FORMATS["int4"], tmp_path)


async def compare(made: Checkpoint, settings: dict[str, Any], aside: Path) -> None:
    """Quantise in bfloat16, and compare the log-probabilities of tokens in both runtimes."""
    stored = {name: ref.load().bfloat16() for name, ref in made.refs.items()}
    dense = made.evolve(stored, config={"dtype": "bfloat16"})
    light = (await run(quantize(**settings), calibrated(dense)))["checkpoint"]
    folder = written(light, aside / "light")
    tokens = tiny_windows().tokens
    logits = plain_logits(folder, torch.bfloat16).float()
    wanted = logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    found = in_vllm(folder, tokens, aside)
    # vLLM computes in bfloat16. Other weights give values further apart.
    assert (found - wanted).square().mean().sqrt() < 0.2 * wanted.std()
