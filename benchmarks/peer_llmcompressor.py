"""One llm-compressor run, in llm-compressor's own environment; `benchmarks/table.py` starts it.

PEER_PYTHON benchmarks/peer_llmcompressor.py JOB.json

Everything that the job does not name is llm-compressor's default.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.pruning import SparseGPTModifier
from run_record import dense_linears, leave, measured, read_job
from transformers import AutoModelForCausalLM

PACKAGES = ("llmcompressor", "torch", "transformers", "compressed-tensors")


def modifier(task: dict[str, Any]) -> Any:
    """What llm-compressor calls the recipe; 2:4 is a sparsity and a structure there."""
    if "sparsity" in task:
        structure = {"mask_structure": task["pattern"]} if "pattern" in task else {}
        return SparseGPTModifier(
            sparsity=task["sparsity"], targets=["Linear"], ignore=["re:.*lm_head"], **structure
        )
    weights = {
        "num_bits": task["bits"],
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": task["group_size"],
    }
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return GPTQModifier(config_groups=groups, ignore=["lm_head"])


def main() -> None:
    job = read_job()
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in job["tokens"].tolist()]
    with measured() as record:
        oneshot(
            model=model,
            dataset=Dataset.from_list(rows),
            recipe=modifier(job["task"]),
            pipeline="sequential",
            num_calibration_samples=len(rows),
            max_seq_length=job["tokens"].shape[1],
            batch_size=job["batch_size"],
            shuffle_calibration_samples=False,
        )
    leave(job, dense_linears(model), record, PACKAGES)


if __name__ == "__main__":
    main()
