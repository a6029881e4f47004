"""Compare whole models with llm-compressor: same calibration tokens, same evaluation text.

python benchmarks/peers.py --model MODEL --calibration TEXT --judge TEXT --peer PYTHON --work DIR

PYTHON is the interpreter of a separate environment with llm-compressor and torch. Each run is a
separate process. The two sides take turns, so that other load on the machine affects both. Results
are stored in DIR/results.json, and the same command resumes after the last stored run. Perplexity
is computed on non-overlapping windows of the evaluation text, the same for every seed; the seed
chooses the calibration windows. "gap closed" is the fraction of the peer's rise over the dense
model that is avoided. CPU and solve times are seconds of all threads; solve excludes the
forward passes. --drift N first trains all weights for N steps on the calibration text, which moves
a model that was quantised before off its grid.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.scores import LinearScore, Scores
from birdbone.engine import Chain, run
from birdbone.links import calibrate, load, prune, quantize
from birdbone.links.pruning.solve_masks import Thinning
from birdbone.links.quantizing.solve import Rounding
from birdbone.models.blocks.linears import all_linears
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.evaluation.scoring import own_perplexity
from birdbone.texts import Windows

LENGTH = 512
BATCH_SIZE = 4
PEER = "llm-compressor"
FLOORS = {"prune": "magnitude", "quantize": "rtn"}
VERSIONS = ("torch", "transformers")

# What is asked for: our settings, and the peer's of the same meaning.
Asked = Mapping[str, Any]
ASKED: Mapping[str, Asked] = {
    "2:4": {"link": "prune", "pattern": "2:4"},
    "50 %": {"link": "prune", "sparsity": 0.5},
    "70 %": {"link": "prune", "sparsity": 0.7},
    "int4 g64": {"link": "quantize", "bits": 4, "group_size": 64},
    "int3 g64": {"link": "quantize", "bits": 3, "group_size": 64},
}
PEER_TASK = {"sparsity": None, "pattern": None, "bits": None, "group_size": None}


def peer_task(asked: Asked) -> dict[str, Any]:
    """The same as llm-compressor takes it, where 2:4 is a sparsity and a structure."""
    task = {**PEER_TASK, **{key: value for key, value in asked.items() if key != "link"}}
    if task["pattern"] is not None:
        kept, of = (int(part) for part in task["pattern"].split(":"))
        task["sparsity"] = 1 - kept / of
    return task


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


def unscored(checkpoint: Checkpoint) -> Scores:
    """What prune needs to know of the linears when every one is to lose the same share."""
    sizes = {each.name: each.shape[0] * each.shape[1] for each in all_linears(checkpoint)}
    linears = {name: LinearScore(0.0, 0.0, size) for name, size in sizes.items()}
    return Scores("none", linears, ())


def run_job(path: Path) -> None:
    """One run of ours in this process: weights and a record, as the peer's script leaves them."""
    job = json.loads(path.read_text())
    torch.set_num_threads(job["threads"])
    solve_seconds = [0.0]
    for solver in (Thinning, Rounding):
        solver.__call__ = timed(solver.__call__, solve_seconds)  # type: ignore[method-assign]
    windows = Windows(load_file(job["tokens"])["tokens"], "calibration")
    ctx: Any = asyncio.run(run(Chain(load(model=job["model"], dtype="float32"))))
    for key in ("calibration", "healing", "heldout"):
        ctx[key] = windows
    ctx["profile"], ctx["scores"] = None, unscored(ctx["checkpoint"])
    maker = prune if job["link"] == "prune" else quantize
    cpu, wall = time.process_time(), time.perf_counter()
    ctx = asyncio.run(run(Chain(maker(**job["settings"])), ctx))
    light: Checkpoint = ctx["checkpoint"]
    record = {
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "solve_cpu_seconds": solve_seconds[0],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "saved_bytes": light.num_bytes,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "settings": dict(ctx["history"][-1].settings),
    }
    names = [each.tensor for each in all_linears(light)]
    save_file({name: light.tensors[name].contiguous() for name in names}, job["weights"])
    Path(job["record"]).write_text(json.dumps(record, default=str))


def perplexity(checkpoint: Checkpoint, windows: Windows) -> float:
    """Over all tokens of the windows but each one's first; in float32."""
    return own_perplexity(checkpoint, windows, announce=lambda label, done, total: None)


class Bench:
    """One model, its texts and the folder where results are kept."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.work: Path = asked.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.store = self.work / "results.json"
        self.results: dict[str, Any] = (
            json.loads(self.store.read_text()) if self.store.exists() else {}
        )
        self.windows = {seed: self._windows(seed) for seed in asked.seeds}
        self.judge = self._windows(asked.seeds[0])["heldout"]
        self.dense = self._dense()

    def _windows(self, seed: int) -> Mapping[str, Windows]:
        text = calibrate(
            data=self.asked.calibration,
            heldout_data=self.asked.judge,
            windows=self.asked.windows,
            heldout_windows=self.asked.windows,
            length=LENGTH,
            seed=seed,
        )
        chain = Chain(load(model=self.asked.model, dtype="float32"), text)
        ctx: Any = asyncio.run(run(chain))
        self.checkpoint: Checkpoint = ctx["checkpoint"]
        tokens = {"tokens": ctx["calibration"].tokens.contiguous()}
        save_file(tokens, self.work / f"tokens-{seed}.safetensors")
        return {key: ctx[key] for key in ("calibration", "heldout")}

    def _dense(self) -> Path:
        """The model as a plain float32 folder, which both sides load."""
        folder = self.work / "dense"
        if not folder.exists():
            whole = Skeleton(self.checkpoint).fill()
            if self.asked.drift:
                drift(whole, self.windows[self.asked.seeds[0]]["calibration"], self.asked.drift)
            with tempfile.TemporaryDirectory(dir=self.work) as aside:
                whole.save_pretrained(aside)
                for name, content in self.checkpoint.top_files.items():
                    Path(aside, name).write_bytes(content)
                Path(aside).rename(folder)
                Path(aside).mkdir()
        ctx: Any = asyncio.run(run(Chain(load(model=str(folder), dtype="float32"))))
        self.checkpoint = ctx["checkpoint"]
        return folder

    def measure(self) -> None:
        """Every run that is not kept yet, theirs and ours in turn."""
        self._keep("dense", lambda: {"perplexity": perplexity(self.checkpoint, self.judge)})
        for seed in self.asked.seeds:
            for label in self.asked.asked:
                for name, settings in self._methods(label).items():
                    key = f"{label} / {name} / seed {seed}"
                    self._keep(key, functools.partial(self._run, label, settings, seed))

    def _methods(self, label: str) -> dict[str, Mapping[str, Any] | None]:
        """By name, our settings; None for the peer."""
        asked = {key: value for key, value in ASKED[label].items() if key != "link"}
        methods: dict[str, Mapping[str, Any] | None] = {PEER: None, "default": asked}
        for text in self.asked.variant:
            name, _, given = text.partition("=")
            methods[name] = {**asked, **json.loads(given)}
        floor = FLOORS[ASKED[label]["link"]]
        return {**methods, floor: {**asked, "method": floor}}

    def _run(self, label: str, settings: Mapping[str, Any] | None, seed: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            job = {
                "model": str(self.dense),
                "tokens": str(self.work / f"tokens-{seed}.safetensors"),
                "threads": self.asked.threads,
                "batch_size": BATCH_SIZE,
                "weights": str(Path(folder, "weights.safetensors")),
                "record": str(Path(folder, "record.json")),
            }
            path = Path(folder, "job.json")
            if settings is None:
                path.write_text(json.dumps({**job, **peer_task(ASKED[label])}))
                script = Path(__file__).with_name("peer_llmcompressor.py")
                command = [self.asked.peer, str(script), str(path)]
            else:
                link = ASKED[label]["link"]
                path.write_text(json.dumps({**job, "link": link, "settings": dict(settings)}))
                command = [sys.executable, __file__, "--job", str(path)]
            environment = {**os.environ, "OMP_NUM_THREADS": str(self.asked.threads)}
            ended = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True
            )
            if ended.returncode:
                raise SystemExit(f"{' '.join(command)} failed:\n{ended.stderr[-4000:]}")
            record: dict[str, Any] = json.loads(Path(job["record"]).read_text())
            light = self.checkpoint.evolve(load_file(job["weights"]))
            record["perplexity"] = perplexity(light, self.judge)
        return record

    def _keep(self, key: str, measure: Callable[[], dict[str, Any]]) -> None:
        if key in self.results:
            return
        self.results[key] = measure()
        aside = self.store.with_suffix(".aside")
        aside.write_text(json.dumps(self.results, indent=2))
        aside.replace(self.store)
        print(f"{key}: perplexity {self.results[key]['perplexity']:.3f}", file=sys.stderr)

    def rows(self) -> list[dict[str, Any]]:
        """Mean over the seeds of every method of everything asked, beside the peer."""
        dense = self.results["dense"]["perplexity"]
        table = []
        for label in self.asked.asked:
            theirs = self._kept(label, PEER)
            for name in self._methods(label):
                ours = self._kept(label, name)
                table.append(row(label, name, dense, ours, theirs))
        return table

    def _kept(self, label: str, name: str) -> list[dict[str, Any]]:
        return [self.results[f"{label} / {name} / seed {seed}"] for seed in self.asked.seeds]

    def setting(self) -> str:
        """What the figures were measured on, in words."""
        peer = next(v["versions"] for k, v in self.results.items() if f"/ {PEER} /" in k)
        learned = self.windows[self.asked.seeds[0]]["calibration"]
        drifted = f", all weights trained {self.asked.drift} steps" if self.asked.drift else ""
        return (
            f"model {self.asked.model}{drifted}; calibrated on {self.asked.windows} windows of "
            f"{LENGTH} tokens of '{learned.text}', seeds {list(self.asked.seeds)}; judged on "
            f"{self.judge.num_windows} others of '{self.judge.text}'; float32; "
            f"{self.asked.threads} thread(s), {platform.machine()}; peer {peer}"
        )


def drift(model: torch.nn.Module, windows: Windows, steps: int) -> None:
    """Train every weight a little on the calibration text, which takes it off any grid."""
    parameters = [parameter.requires_grad_() for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-5, weight_decay=0.0)
    batches = windows.tokens.split(BATCH_SIZE)
    model.train()
    for step in range(steps):
        tokens = batches[step % len(batches)]
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def row(
    label: str,
    name: str,
    dense: float,
    ours: Sequence[Mapping[str, Any]],
    theirs: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """One method beside the peer: perplexities as they are, times as ratios of sums."""

    def mean(runs: Sequence[Mapping[str, Any]], key: str) -> float:
        return statistics.fmean(float(each[key]) for each in runs)

    found = [float(each["perplexity"]) for each in ours]
    gap = mean(theirs, "perplexity") - dense
    return {
        "asked": label,
        "method": name,
        "perplexity": statistics.fmean(found),
        "spread": statistics.stdev(found) if len(found) > 1 else 0.0,
        "gap_closed": 1 - (statistics.fmean(found) - dense) / gap,
        "cpu_ratio": mean(ours, "cpu_seconds") / mean(theirs, "cpu_seconds"),
        "wall_ratio": mean(ours, "wall_seconds") / mean(theirs, "wall_seconds"),
        "solve_ratio": mean(ours, "solve_cpu_seconds") / mean(theirs, "solve_cpu_seconds"),
        "cpu_seconds": mean(ours, "cpu_seconds"),
        "solve_cpu_seconds": mean(ours, "solve_cpu_seconds"),
        "peak_bytes": mean(ours, "peak_bytes"),
        "saved_bytes": mean(ours, "saved_bytes"),
    }


def show(dense: float, rows: Sequence[Mapping[str, Any]]) -> None:
    print(f"dense perplexity {dense:.3f}")
    head = ("asked", "method", "perplexity", "gap closed", "CPU", "wall", "solve", "peak", "saved")
    print("{:<10}{:<16}{:>18}{:>12}{:>8}{:>8}{:>8}{:>9}{:>10}".format(*head))
    for each in rows:
        found = f"{each['perplexity']:.2f} ± {each['spread']:.2f}"
        print(
            f"{each['asked']:<10}{each['method']:<16}{found:>18}{each['gap_closed']:>12.0%}"
            f"{each['cpu_ratio']:>8.2f}{each['wall_ratio']:>8.2f}{each['solve_ratio']:>8.2f}"
            f"{each['peak_bytes'] / 1e9:>6.1f} GB{each['saved_bytes'] / 1e6:>7.0f} MB"
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="as birdbone's load takes it")
    parser.add_argument("--calibration", required=True, help="text to calibrate on")
    parser.add_argument("--judge", required=True, help="text to judge by")
    parser.add_argument("--peer", required=True, help="python of llm-compressor's environment")
    parser.add_argument("--work", required=True, type=Path, help="folder for runs and results")
    parser.add_argument("--asked", nargs="+", choices=tuple(ASKED), default=list(ASKED))
    parser.add_argument(
        "--variant", action="append", default=[], help="another variant of ours: NAME={settings}"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--drift", type=int, default=0, metavar="STEPS")
    return parser.parse_args()


def main() -> None:
    if sys.argv[1:2] == ["--job"]:
        run_job(Path(sys.argv[2]))
        return
    bench = Bench(arguments())
    bench.measure()
    dense, rows = bench.results["dense"]["perplexity"], bench.rows()
    print(bench.setting())
    show(dense, rows)
    summary = {"setting": bench.setting(), "dense": dense, "rows": rows}
    (bench.work / "summary.json").write_text(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
