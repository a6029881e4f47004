"""One llm-compressor run, in llm-compressor's own environment; `benchmarks/peers.py` starts it.

PEER_PYTHON benchmarks/peer_llmcompressor.py JOB.json

The job names a folder with a dense model, a safetensors file with the calibration tokens, what to
do (a sparsity, a pattern, or bits and a group size), and where to write: the dense values of every
linear, and a record of CPU seconds, wall seconds, peak memory and saved bytes. Everything not in
the job is llm-compressor's default. The solve alone is timed around the one function of
llm-compressor that turns a Hessian into a weight.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llmcompressor.modifiers.gptq.base as gptq_module
import llmcompressor.modifiers.pruning.sparsegpt.base as sparsegpt_module
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.pruning import SparseGPTModifier
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

VERSIONS = ("llmcompressor", "torch", "transformers", "compressed-tensors")


def timed(function: Callable[..., Any], total: list[float]) -> Callable[..., Any]:
    """The same function; adds its CPU seconds to ``total[0]``."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            total[0] += time.process_time() - start

    return call


def modifier(job: dict[str, Any]) -> Any:
    """What llm-compressor calls the recipe."""
    if job["bits"] is None:
        structure = {} if job["pattern"] is None else {"mask_structure": job["pattern"]}
        return SparseGPTModifier(
            sparsity=job["sparsity"], targets=["Linear"], ignore=["re:.*lm_head"], **structure
        )
    weights = {
        "num_bits": job["bits"],
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": job["group_size"],
    }
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return GPTQModifier(config_groups=groups, ignore=["lm_head"])


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    solve_seconds = [0.0]
    sparsegpt_module.sparsify_weight = timed(sparsegpt_module.sparsify_weight, solve_seconds)
    gptq_module.quantize_weight = timed(gptq_module.quantize_weight, solve_seconds)
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    tokens = load_file(job["tokens"])["tokens"]
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in tokens.tolist()]
    cpu, wall = time.process_time(), time.perf_counter()
    oneshot(
        model=model,
        dataset=Dataset.from_list(rows),
        recipe=modifier(job),
        pipeline="sequential",
        num_calibration_samples=len(rows),
        max_seq_length=tokens.shape[1],
        batch_size=job["batch_size"],
        shuffle_calibration_samples=False,
    )
    record = {
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "solve_cpu_seconds": solve_seconds[0],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }
    linears = {
        f"{name}.weight": module.weight.detach().contiguous()
        for name, module in model.model.named_modules(prefix="model")
        if isinstance(module, torch.nn.Linear)
    }
    save_file(linears, job["weights"])
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_compressed=True)
        record["saved_bytes"] = sum(p.stat().st_size for p in Path(folder).glob("*.safetensors"))
    Path(job["record"]).write_text(json.dumps(record))


if __name__ == "__main__":
    main()
