"""One Torch-Pruning run, in an environment of its own; `benchmarks/table.py` starts it.

PEER_PYTHON benchmarks/peer_torchpruning.py JOB.json

Neurons of the feed-forward layers are removed in every block, by the group Taylor importance with
its defaults; the gradients are those of the language-modelling loss on the calibration tokens.
"""

from __future__ import annotations

import torch
import torch_pruning as tp
from run_record import dense_linears, leave, measured, read_job
from transformers import AutoModelForCausalLM

PACKAGES = ("torch-pruning", "torch", "transformers")


def main() -> None:
    job = read_job()
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    model.config.use_cache = False
    tokens, task = job["tokens"], job["task"]
    with measured() as record:
        for batch in tokens.split(job["batch_size"]):
            loss = model(batch, labels=batch).loss * len(batch) / len(tokens)
            loss.backward()
        graph = tp.DependencyGraph().build_dependency(model, example_inputs=tokens[:1, :16])
        importance = tp.importance.GroupTaylorImportance()
        outputs = [
            module
            for name, module in model.named_modules()
            if f"{name}.weight".endswith(f".{task['output']}")
        ]
        for output in outputs:
            everyone = list(range(task["before"]))
            group = graph.get_pruning_group(output, tp.prune_linear_in_channels, idxs=everyone)
            order = importance(group).argsort()
            gone = order[: task["before"] - task["after"]].tolist()
            graph.get_pruning_group(output, tp.prune_linear_in_channels, idxs=gone).prune()
    leave(job, dense_linears(model), record, PACKAGES)


if __name__ == "__main__":
    main()
