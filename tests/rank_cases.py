"""Chains that tests run on one rank and on two, and what is compared of their results.

    python rank_cases.py FOLDER               all of them, one after the other
    python rank_cases.py FOLDER NAME KILLED   one of them; a rank is killed in it, or none (-1)

Run with the variables of torchrun. Each rank writes what it found to FOLDER.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tiny import tiny_checkpoint
from tiny_contexts import calibrated
from torch import Tensor

from birdbone import Chain, run_sync
from birdbone.checkpoints import ranks
from birdbone.contexts.flow import Calibrated, Changed
from birdbone.engine import Link, link
from birdbone.errors import BirdboneError
from birdbone.journal import RunFolder
from birdbone.links import heal, profile, prune, quantize, score, sensitivity, validate
from birdbone.links.healing import train as healers
from birdbone.links.quantizing import calibrated as calibrated_pass
from birdbone.models.blocks import products
from birdbone.models.passes import resuming

# The batches of one rank are those of two, which have three windows each: the last bits of sums
# depend on them, and a mask on the last bits.
CASES: Mapping[str, tuple[str, Callable[[], Chain]]] = {
    "profile": ("mixtral", lambda: Chain(profile(moments="full", batch_size=3))),
    "wanda": ("llama", lambda: Chain(profile(batch_size=3), score(per_weight=True))),
    "taylor": ("llama", lambda: Chain(profile(), score(method="taylor", per_weight=True))),
    "sensitivity": (
        "mixtral",
        lambda: Chain(sensitivity(bits=(3,), group_sizes=(32,), batch_size=3)),
    ),
    "sparsegpt": ("llama", lambda: pruned(sparsity=0.5, method="sparsegpt")),
    "admm": ("mixtral", lambda: pruned(sparsity=0.5, method="admm")),
    "neurons": ("llama", lambda: pruned(sparsity=0.3, pattern="neurons")),
    "groups": ("llama", lambda: pruned(sparsity=0.5, pattern="groups")),
    "experts": ("mixtral", lambda: pruned(pattern="experts")),
    "layers": ("llama", lambda: pruned(sparsity=0.3, pattern="layers")),
    "quantize": ("llama", lambda: Chain(quantized(rank=2), validate(batch_size=3))),
    "quantize experts": ("mixtral", lambda: Chain(quantized(symmetric=False))),
    "heal blocks": ("llama", lambda: healed(batch_size=1)),
    "heal blocks by two": ("mixtral", lambda: healed(batch_size=2)),
    "experts' zeros": ("mixtral", lambda: pruned(sparsity=0.5, method="magnitude")),
    "heal full": ("llama_tied", lambda: healed(method="full", batch_size=3)),
    "heal full, divided": ("mixtral", lambda: healed(method="full", batch_size=3, shard=True)),
    "heal scales": (
        "llama",
        lambda: Chain(quantized(), heal(method="scales", batch_size=3, heldout_share=0.3)),
    ),
    "heal lora": ("llama", lambda: healed(method="lora", rank=2)),
    "heal qlora": ("llama", lambda: healed(method="qlora", rank=2, batch_size=2, epochs=1)),
    "heal on sampled text": ("llama", lambda: healed(epochs=1, tokens=16 * 7, heldout_share=0.1)),
}


def pruned(**settings: Any) -> Chain:
    """A chain that prunes."""
    return Chain(profile(batch_size=3), score(), prune(batch_size=3, **settings))


def quantized(**settings: Any) -> Link[Any]:
    """The link quantize for tiny models."""
    return quantize(group_size=16, batch_size=3, **settings)


def healed(**settings: Any) -> Chain:
    """A chain that prunes, which no sums decide, and heals."""
    magnitude = pruned(sparsity=0.5, method="magnitude")
    return Chain(*magnitude.links, heal(**{"heldout_share": 0.3, **settings}))


def rounded() -> Chain:
    """A chain of which rank 0 runs the last link alone."""
    return Chain(profile(), quantize(method="rtn", group_size=16))


def found(name: str) -> dict[str, Any]:
    """What a case leaves."""
    arch, chain = CASES[name]
    ctx = run_sync(chain(), context(arch))
    return {"id": ctx["checkpoint"].id, **figures(ctx)}


def context(arch: str) -> dict[str, Any]:
    """Six windows of each text, for two ranks or one."""
    return calibrated(tiny_checkpoint(arch), num=6)


def figures(ctx: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors by name, whole numbers among the metrics, and the files beside the weights."""
    tensors: dict[str, Tensor] = {}
    tensors |= {f"model {n}": each.float() for n, each in ctx["checkpoint"].tensors.items()}
    if "profile" in ctx:
        linears = ctx["profile"].linears.items()
        tensors |= {f"moment {n}": each.second_moment for n, each in linears}
        influences = [each.influence for each in ctx["profile"].blocks]
        tensors["influence"] = torch.tensor(influences)
    if "scores" in ctx:
        tensors |= {f"score {n}": each for n, each in ctx["scores"].weights.items()}
    if "sensitivity" in ctx:
        losses = ctx["sensitivity"].linears.items()
        tensors["losses"] = torch.tensor([each.loss_at(3) or 0.0 for _, each in losses])
    if "verdict" in ctx:
        judged = ctx["verdict"].heldout
        tensors["verdict"] = torch.tensor([judged.light.value, judged.mean_kl, judged.rise])
    if "plan" in ctx:
        plans = ctx["plan"].linears
        tensors["errors"] = torch.tensor([plans[each].relative_error for each in sorted(plans)])
    whole = {k: v for k, v in ctx["history"][-1].metrics.items() if isinstance(v, int)}
    return {"tensors": tensors, "metrics": whole, "files": sorted(ctx["checkpoint"].files)}


@link
async def fails_on_rank_1(ctx: Calibrated) -> Changed:
    """Fails on one rank, while the other waits for it."""
    if ranks.rank() == 1:
        raise ValueError("out of order")
    ranks.exchanged(None)
    return {"checkpoint": ctx["checkpoint"]}


@fails_on_rank_1.on_every_rank
def _on_every_rank(settings: Any) -> bool:
    return True


def failure(chain: Chain, store: RunFolder | None = None) -> str:
    """The error of a run."""
    try:
        run_sync(chain, context("llama"), store=store)
    except BirdboneError as error:
        return str(error)
    return ""


def all_cases(folder: Path) -> None:
    """Run everything as one rank, and write what came of it."""
    results: dict[str, Any] = {name: found(name) for name in CASES}
    again = "quantize", "heal blocks by two", "heal full, divided"
    results["again"] = {name: found(name)["id"] for name in again}
    with RunFolder(folder / "runs") as store:
        ctx = run_sync(rounded(), context("llama"), store=store)
        results["rounded"] = ctx["checkpoint"].id, [step.link for step in ctx["history"]]
        results["replayed"] = run_sync(rounded(), context("llama"), store=store)["checkpoint"].id
    results["failure"] = failure(Chain(fails_on_rank_1()))  # the last: the ranks end with it
    torch.save(results, folder / f"rank{ranks.rank()}.pt")


def interrupted(folder: Path, name: str, killed: int) -> None:
    """Run a case in a run folder, saving all the time; one rank is killed after a block or step."""
    resuming.PAUSE_SECONDS, resuming.SAVING_FRACTION = 0.0, 1e9
    resuming._TRAINING_FRACTION = 1e9
    counts: list[int] = []

    def announce(label: str, done: int, total: int, loss: float = 0.0) -> None:
        if label == "dense outputs":
            return
        counts.append(done)
        if ranks.rank() == killed and done == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    calibrated_pass.announce = healers.announce = announce
    arch, chain = CASES[name]
    with RunFolder(folder / "runs") as store:
        ctx = run_sync(chain(), context(arch), store=store)
    torch.save((ctx["checkpoint"].id, counts), folder / f"rank{ranks.rank()}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    products.has_fast_bfloat16 = lambda: False  # as in every test
    if len(sys.argv) > 2:
        interrupted(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    else:
        all_cases(Path(sys.argv[1]))
