"""One AutoRound run, in AutoRound's own environment; `benchmarks/table.py` starts it.

PEER_PYTHON benchmarks/peer_autoround.py JOB.json

The job names the number of iterations per block. The learning rate and everything else that it does
not name are AutoRound's defaults. The weights are those it leaves in the model, rounded and dense.
"""

from __future__ import annotations

import torch
from auto_round import AutoRound
from run_record import dense_linears, leave, measured, read_job
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGES = ("auto-round", "torch", "transformers")


def main() -> None:
    job = read_job()
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    tokens, task = job["tokens"], job["task"]
    with measured() as record:
        tuning = AutoRound(
            model,
            tokenizer,
            bits=task["bits"],
            group_size=task["group_size"],
            sym=True,
            iters=task["iterations"],
            nsamples=tokens.shape[0],
            seqlen=tokens.shape[1],
            batch_size=job["batch_size"],
            dataset=list(tokens.split(1)),
            device_map="cpu",
        )
        rounded, _ = tuning.quantize()
    leave(job, dense_linears(rounded), record, PACKAGES)


if __name__ == "__main__":
    main()
