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


def processor_has(feature: str) -> bool:
    """Whether the processor has a feature, such as ``avx512f``; False where it is not told."""
    told = Path("/proc/cpuinfo")
    return told.exists() and feature in told.read_text().split()


def needing(feature: str, settings: dict[str, Any], name: str, why: str) -> Any:
    lacks = pytest.mark.skipif(not processor_has(feature), reason=f"without {feature} {why}")
    return pytest.param(settings, marks=lacks, id=name)


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="BIRDBONE_VLLM_PYTHON names no Python with vLLM")
@pytest.mark.parametrize(
    "settings",
    [
        needing("avx512f", {"bits": 4, "group_size": 64}, "int4", "vLLM has no kernel"),
        needing(
            "avx512_vnni",
            {"bits": 8, "group_size": None, "input_activations": "int8"},
            "int8 inputs",
            "vLLM's products of int8 lose precision",
        ),
        pytest.param({"grid": "fp8", "input_activations": "fp8"}, id="fp8 inputs"),
    ],
)
async def test_vllm_computes_what_transformers_does(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 256}  # heads of 32, as its kernels need
    made = tiny_checkpoint("llama_tied", **sizes)
    stored = {name: ref.load().bfloat16() for name, ref in made.refs.items()}
    dense = made.evolve(stored, config={"dtype": "bfloat16"})
    light = (await run(quantize(**settings), calibrated(dense)))["checkpoint"]
    folder = written(light, tmp_path / "light")
    tokens = tiny_windows().tokens
    wanted = (
        plain_logits(folder)[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    )
    found = in_vllm(folder, tokens, tmp_path)
    # vLLM computes in bfloat16. Other weights give values further apart.
    assert (found - wanted).square().mean().sqrt() < 0.2 * wanted.std()
