"""One run of bird-bone in a process of its own, and its judge; `benchmarks/table.py` starts it.

python benchmarks/own_run.py JOB.json
"""

from __future__ import annotations

import asyncio
from typing import Any

from run_record import leave, measured, read_job

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.scores import LinearScore, Scores
from birdbone.engine import Chain, run
from birdbone.links import heal, load, prune, quantize
from birdbone.models.blocks.linears import all_linears
from birdbone.models.evaluation.scoring import own_perplexity
from birdbone.texts import Windows

LINKS = {"prune": prune, "quantize": quantize, "heal": heal}
PACKAGES = ("torch", "transformers")
GATE = ("kept", "reason", "steps", "loss_before", "loss_after")


def unscored(checkpoint: Checkpoint) -> Scores:
    """Scores for a prune that removes the same fraction of every linear."""
    sizes = {each.name: each.shape[0] * each.shape[1] for each in all_linears(checkpoint)}
    linears = {name: LinearScore(0.0, 0.0, size) for name, size in sizes.items()}
    return Scores("none", linears, ())


def perplexity(checkpoint: Checkpoint, windows: Windows) -> float:
    """Over all tokens of the windows but each one's first; in float32."""
    return own_perplexity(checkpoint, windows, announce=lambda label, done, total: None)


def main() -> None:
    job = read_job()
    ctx: Any = asyncio.run(
        run(Chain(load(model=job["model"], dtype="float32", precision="float32")))
    )
    windows = Windows(job["tokens"], "calibration")
    ctx |= {"calibration": windows, "heldout": windows}
    ctx["healing"] = Windows(job.get("healing", job["tokens"]), "healing")
    ctx |= {"profile": None, "scores": unscored(ctx["checkpoint"])}
    links = [LINKS[name](**settings) for name, settings in job["links"]]
    with measured() as record:
        ctx = asyncio.run(run(Chain(*links), ctx))
    steps = [step for step in ctx["history"] if step.link in LINKS]
    record["settings"] = {step.link: dict(step.settings) for step in steps}
    record["healing"] = [
        {key: step.metrics[key] for key in GATE} for step in steps if step.link == "heal"
    ]
    light: Checkpoint = ctx["checkpoint"]
    leave(job, {name: light.tensors[name] for name in light.refs}, record, PACKAGES)


if __name__ == "__main__":
    main()
