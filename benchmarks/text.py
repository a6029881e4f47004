"""Which calibration text: one model compressed on it, judged on texts that calibrated nothing.

python benchmarks/text.py --model MODEL --cache DIR --treatment
    int4|int3|neurons17|mask50 [--data default] [--windows 64] [--seed 0]
    [--heal none blocks full scales] [--judge NAME=FILE ...]

Prints a JSON line for the compressed model and one for each way of healing it: the perplexity of
the original and of the result on the first windows of each judging text, the rises that `validate`
reports on held-out text and on text from elsewhere, the larger of those two over the rise on each
judging text ("reported"), and wall-clock seconds. --data may be repeated and takes what calibrate
takes. DIR keeps the text sampled from the model, batch by batch: other amounts of it, and other
treatments, take it from there.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import sys
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import torch
from own_run import perplexity, unscored

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.verdict import Verdict
from birdbone.engine import Chain, Link, run
from birdbone.journal.work_in_progress import WorkInProgress
from birdbone.links import calibrate, heal, load, prune, quantize, validate
from birdbone.links.calibrating import own_text
from birdbone.models.reading.tokenizer import load_tokenizer
from birdbone.texts import Windows, pack_windows, read_corpus

TREATMENTS: Mapping[str, Link[Any]] = {
    "int4": quantize(bits=4, group_size=64),
    "int3": quantize(bits=3, group_size=64),
    "neurons17": prune(pattern="neurons", sparsity=0.17),
    "mask50": prune(sparsity=0.5, method="admm"),
}
METHODS = ("none", "blocks", "full", "scales")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def opened(asked: argparse.Namespace) -> dict[str, Any]:
    """The model and its text; text sampled from the model is kept in the cache."""
    ctx: Any = asyncio.run(run(Chain(load(model=asked.model, dtype=asked.dtype))))
    place = asked.cache / f"sampled-{ctx['dense'].id[:12]}-seed{asked.seed}"
    kept = WorkInProgress(place, say)
    own_text.unfinished = lambda: kept
    place.mkdir(parents=True, exist_ok=True)
    divided = calibrate(
        data=tuple(asked.data),
        windows=asked.windows,
        healing_windows=asked.healing_windows,
        heldout_windows=asked.heldout_windows,
        elsewhere_windows=asked.elsewhere_windows,
        elsewhere=asked.elsewhere,
        length=asked.length,
        seed=asked.seed,
    )
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the second of two processes takes what the first sampled
        ctx = asyncio.run(run(Chain(divided), ctx))
    return {**ctx, "profile": None, "scores": unscored(ctx["checkpoint"])}


def judging(asked: argparse.Namespace, checkpoint: Checkpoint) -> dict[str, Windows]:
    """The first windows of each judging text, by its name."""
    tokenizer = load_tokenizer(checkpoint)
    found = {}
    for each in asked.judge:
        name, _, path = each.rpartition("=")
        documents = read_corpus(path, tokenizer).documents
        found[name or Path(path).stem] = pack_windows(
            documents, tokenizer, length=asked.length, limit=asked.judge_windows, text=path
        )
    return found


def original(cache: Path, checkpoint: Checkpoint, texts: Mapping[str, Windows]) -> dict[str, float]:
    """The original's perplexity on every text, from the cache where it was measured before."""
    path = cache / "original.json"
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    found = {}
    for name, windows in texts.items():
        key = sha256(f"{checkpoint.id} {windows.digest}".encode()).hexdigest()
        found[name] = known[key] if key in known else perplexity(checkpoint, windows)
        known[key] = found[name]
    path.write_text(json.dumps(known))
    return found


def row(
    asked: argparse.Namespace, ctx: Mapping[str, Any], method: str, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """One model, judged."""
    dense, light = ctx["dense"], ctx["checkpoint"]
    texts = judging(asked, dense)
    before = original(asked.cache, dense, texts)
    verdict = cast("Verdict", ctx["verdict"])
    judged = {}
    for name, windows in texts.items():
        after = perplexity(light, windows)
        rise = after / before[name] - 1
        judged[name] = {
            "original": before[name],
            "result": after,
            "rise": rise,
            "reported": verdict.rise / rise,
            "windows": windows.num_windows,
        }
    steps = [step.metrics for step in ctx["history"] if step.link == "heal"]
    gate = ("kept", "reason", "steps", "loss_before", "loss_after")
    return {
        "treatment": asked.treatment,
        "heal": method,
        "data": asked.data,
        "calibration": f"{ctx['calibration'].num_windows} of {ctx['calibration'].text}",
        "healing": f"{ctx['healing'].num_windows} of {ctx['healing'].text}",
        "seed": asked.seed,
        "judged": judged,
        "reported_rise": {name: each.rise for name, each in verdict.texts.items()},
        "reported_error": {name: each.rise_error for name, each in verdict.texts.items()},
        "elsewhere": None if verdict.elsewhere is None else verdict.elsewhere.text,
        "healed": [{key: each[key] for key in gate if key in each} for each in steps],
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "model": asked.model,
        "parameters": light.num_parameters,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def healings(asked: argparse.Namespace) -> Sequence[tuple[str, Link[Any] | None]]:
    """The ways of healing, by name; None leaves the model as it was compressed."""
    given = json.loads(asked.set)
    return [
        (name, None if name == "none" else heal(**{"method": name, "seed": asked.seed, **given}))
        for name in asked.heal
    ]


def main() -> None:
    asked = arguments()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    asked.cache.mkdir(parents=True, exist_ok=True)
    ways = healings(asked)
    begun = time.perf_counter()
    ctx: Any = opened(asked)
    seconds = {"text": time.perf_counter() - begun}
    begun = time.perf_counter()
    ctx = asyncio.run(run(Chain(TREATMENTS[asked.treatment]), ctx))
    seconds["treatment"] = time.perf_counter() - begun
    for method, healing in ways:
        links = [] if healing is None else [healing]
        begun = time.perf_counter()
        healed: Any = asyncio.run(run(Chain(*links), ctx)) if links else ctx
        seconds["heal"] = time.perf_counter() - begun
        healed = asyncio.run(run(Chain(validate(batch_size=1)), healed))
        ctx["reference"] = healed["reference"]
        print(json.dumps(row(asked, healed, method, seconds)), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="as birdbone's load takes it")
    parser.add_argument("--cache", required=True, type=Path, help="folder for sampled text")
    parser.add_argument("--treatment", required=True, choices=tuple(TREATMENTS))
    parser.add_argument("--data", action="append", help="default, self, pydoc, or files [default]")
    parser.add_argument("--elsewhere", help="text from elsewhere [the first built-in one unused]")
    parser.add_argument("--judge", action="append", default=[], metavar="[NAME=]FILE")
    parser.add_argument("--heal", nargs="+", choices=METHODS, default=["none"])
    parser.add_argument("--set", default="{}", help='settings of heal: {"epochs": 1}')
    parser.add_argument("--windows", type=int, default=64, help="to calibrate on")
    parser.add_argument("--healing-windows", type=int, default=64)
    parser.add_argument("--heldout-windows", type=int, default=16)
    parser.add_argument("--elsewhere-windows", type=int, default=16)
    parser.add_argument("--judge-windows", type=int, default=20, help="the first of each text")
    parser.add_argument("--length", type=int, default=512, help="tokens per window")
    parser.add_argument("--dtype", default="bfloat16", help="of the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    asked = parser.parse_args()
    asked.data = asked.data or ["default"]
    return asked


if __name__ == "__main__":
    main()
