"""Measure healing: prune by masks or whole units, heal, evaluate on another text.

python benchmarks/healing.py --model MODEL --data TEXT --heldout TEXT --work DIR
    [--asked "50 %" "2:4"] [--heal 'NAME={"method": "blocks", "epochs": 2}'] [--json FILE]

Pruned models and figures are stored in DIR, and the same command resumes after the last one. The
text is split by `calibrate` as for users: windows for pruning and healing from one text, windows
for evaluation from the other. "gap closed" is the fraction of the first pruned model's rise in
perplexity that healing removes. The first model is SparseGPT's for masks, and removal without
refitting for neurons. "KL closed" is the same for the mean KL to the dense model. "CPU" is seconds
of all threads, "of solve" the ratio to SparseGPT's solve, "of pass" the ratio to its whole pass.
"kept: no" means that the gate of heal found no gain and returned its input unchanged.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from own_run import unscored
from safetensors.torch import load_file, save_file
from torch import Tensor

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.verdict import Verdict
from birdbone.engine import Chain, run
from birdbone.links import calibrate, heal, load, prune, validate
from birdbone.links.pruning.solve_masks import Thinning
from birdbone.links.pruning.solve_units import Removal
from birdbone.models.units.remove_units import Kept
from birdbone.models.units.residuals import Fed

LENGTH = 512

# What is asked for, by the name of each start: the settings of prune; and the start whose rise over
# dense is the gap. "bare" comes with "default" of neurons: the same ones gone, nothing refitted.
STARTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "50 %": {"sparsegpt": {"sparsity": 0.5, "method": "sparsegpt"}, "default": {"sparsity": 0.5}},
    "2:4": {"sparsegpt": {"pattern": "2:4", "method": "sparsegpt"}, "default": {"pattern": "2:4"}},
    "neurons": {"default": {"pattern": "neurons", "sparsity": 0.27}},
}
BARS = {"50 %": "sparsegpt", "2:4": "sparsegpt", "neurons": "bare"}
HEALS: Mapping[str, Mapping[str, Any]] = {
    "blocks": {"method": "blocks"},
    "full": {"method": "full"},
}


def opened(asked: argparse.Namespace, length: int) -> Chain:
    """The model, and the text divided as for any user."""
    return Chain(
        load(model=asked.model, dtype="float32"),
        calibrate(
            data=asked.data,
            heldout_data=asked.heldout,
            windows=asked.windows,
            healing_windows=asked.healing_windows,
            heldout_windows=asked.judge_windows,
            length=length,
            seed=asked.seed,
        ),
    )


class Bench:
    """One model, its texts, and the folder where pruned models and figures are kept."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.work: Path = asked.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.seed: int = asked.seed
        self.store = self.work / "results.json"
        self.results: dict[str, Any] = (
            json.loads(self.store.read_text()) if self.store.exists() else {}
        )
        self.ctx: Any = asyncio.run(run(opened(asked, LENGTH)))
        self.ctx |= {"profile": None, "scores": unscored(self.ctx["checkpoint"])}
        self._require_same()

    def _require_same(self) -> None:
        """Refuse a folder whose figures are of another model or other text."""
        texts = {key: self.ctx[key].digest for key in ("calibration", "healing", "heldout")}
        here = {"model": self.ctx["checkpoint"].id, "seed": self.seed, **texts}
        there = self.results.setdefault("setting", here)
        other = [key for key, value in here.items() if there.get(key) != value]
        if other:
            raise SystemExit(f"{self.store} is of another {', '.join(other)}; give another --work")

    def dense(self) -> dict[str, Any]:
        """The dense model's own figures."""
        return self._keep("dense", lambda: self._judged(self.ctx["checkpoint"]))

    def start(self, label: str, name: str) -> dict[str, Any]:
        """A pruned model's figures; made, and left in the folder, if it is not there."""
        return self._keep(f"{label} / {name}", lambda: self._prune(label, name))

    def healed(
        self, label: str, name: str, healing: str, settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What healing made of a start."""
        key = f"{label} / {name} / {healing} {json.dumps(settings, sort_keys=True)}"
        return self._keep(key, lambda: self._heal(label, name, settings))

    def _prune(self, label: str, name: str) -> dict[str, Any]:
        solve, bare = [0.0], dict[str, Tensor]()
        real = Thinning.__call__, Removal.__call__
        Thinning.__call__ = timed(real[0], solve)  # type: ignore[method-assign]
        spy: Any = unfitted(timed(real[1], solve), bare)
        Removal.__call__ = spy  # type: ignore[method-assign]
        begun = time.process_time()
        try:
            ctx: Any = asyncio.run(run(Chain(prune(**STARTS[label][name])), self.ctx))
        finally:
            Thinning.__call__, Removal.__call__ = real  # type: ignore[method-assign]
        cpu = time.process_time() - begun
        light: Checkpoint = ctx["checkpoint"]
        if bare:
            self._keep(f"{label} / bare", lambda: self._judged(light.evolve(bare)))
        weights = {key: light.tensors[key].contiguous() for key in light.refs}
        save_file(weights, self._weights(label, name))
        return {
            **self._judged(light),
            "cpu_seconds": cpu,
            "solve_cpu_seconds": solve[0],
            "config": dict(light.config),
        }

    def _heal(self, label: str, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        config = self.results[f"{label} / {name}"]["config"]
        dense: Checkpoint = self.ctx["checkpoint"]
        light = dense.evolve(load_file(self._weights(label, name)), config=config)
        begun = time.process_time()
        healing = Chain(heal(**{"seed": self.seed, **settings}))
        ctx: Any = asyncio.run(run(healing, {**self.ctx, "checkpoint": light}))
        cpu = time.process_time() - begun
        metrics = ctx["history"][-1].metrics
        gate = {key: metrics[key] for key in ("kept", "loss_before", "loss_after", "steps")}
        found = self._judged(ctx["checkpoint"])
        return {**found, "cpu_seconds": cpu, "settings": dict(settings), **gate}

    def _judged(self, checkpoint: Checkpoint) -> dict[str, Any]:
        ctx = {**self.ctx, "checkpoint": checkpoint}
        ended: Any = asyncio.run(run(Chain(validate(batch_size=1)), ctx))
        self.ctx["reference"] = ended["reference"]
        judged = cast("Verdict", ended["verdict"]).heldout
        return {
            "perplexity": judged.light.value,
            "rise": judged.rise,
            "rise_error": judged.rise_error,
            "kl": judged.mean_kl,
            "parameters": checkpoint.num_parameters,
        }

    def _weights(self, label: str, name: str) -> Path:
        return self.work / f"{label.replace(' %', '').replace(':', '')}-{name}.safetensors"

    def _keep(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in self.results:
            self.results[key] = measure()
            aside = self.store.with_suffix(".aside")
            aside.write_text(json.dumps(self.results, indent=2, default=str))
            aside.replace(self.store)
            print(f"{key}: perplexity {self.results[key]['perplexity']:.3f}", file=sys.stderr)
        found: dict[str, Any] = self.results[key]
        return found

    def setting(self) -> str:
        """What the figures were measured on, in words."""
        texts = {key: self.ctx[key] for key in ("calibration", "healing", "heldout")}
        parts = ", ".join(f"{text.num_windows} of '{text.text}'" for text in texts.values())
        return (
            f"windows of {LENGTH} tokens: {parts}; weights float32, seed {self.seed}, torch "
            f"{torch.__version__}, {platform.machine()}, {torch.get_num_threads()} thread(s)"
        )


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


def unfitted(
    solve: Callable[[Removal, Fed], Kept], found: dict[str, Tensor]
) -> Callable[[Removal, Fed], Kept]:
    """The same solver; leaves in ``found`` what each output linear is with nothing refitted."""

    @functools.wraps(solve)
    def call(removal: Removal, fed: Fed) -> Kept:
        kept = solve(removal, fed)
        size = removal.change.output.size // removal.change.before
        columns = (kept.units.unsqueeze(1) * size + torch.arange(size)).flatten()
        weight = fed.weight[:, columns]
        found[fed.linear.tensor] = (weight.T if fed.linear.transposed else weight).contiguous()
        return kept

    return call


def measure(
    bench: Bench, asked: Sequence[str], heals: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Every start of everything asked, as pruned and as healed in every way."""
    dense = bench.dense()
    table = []
    for label in asked:
        found = {name: bench.start(label, name) for name in STARTS[label]}
        bar = bench.start(label, BARS[label])
        for name, start in {BARS[label]: bar, **found}.items():
            table.append(row(label, name, start, dense, bar))
            for healing, settings in heals.items() if name in found else ():
                healed = bench.healed(label, name, healing, settings)
                table.append(row(label, f"{name} + {healing}", healed, dense, bar))
    return table


def row(
    label: str,
    name: str,
    found: Mapping[str, Any],
    dense: Mapping[str, Any],
    bar: Mapping[str, Any],
) -> dict[str, Any]:
    """One model beside dense and the bar; healing's seconds beside those of the bar's pruning."""
    healed = "kept" in found
    return {
        "asked": label,
        "model": name,
        **{key: value for key, value in found.items() if key != "config"},
        "gap_closed": 1
        - (found["perplexity"] - dense["perplexity"]) / (bar["perplexity"] - dense["perplexity"]),
        "kl_closed": 1 - found["kl"] / bar["kl"],
        "of_solve": (
            found["cpu_seconds"] / bar["solve_cpu_seconds"]
            if healed and "solve_cpu_seconds" in bar
            else None
        ),
        "of_pass": (
            found["cpu_seconds"] / bar["cpu_seconds"] if healed and "cpu_seconds" in bar else None
        ),
    }


def show(dense: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    print(f"dense perplexity {dense['perplexity']:.3f}")
    head = ("asked", "model", "perplexity", "gap closed", "KL", "KL closed", "CPU s")
    last = ("of solve", "of pass", "kept")
    print("{:<9}{:<26}{:>11}{:>12}{:>8}{:>11}{:>8}".format(*head), "{:>9}{:>9}{:>6}".format(*last))
    for each in rows:
        cpu = f"{each['cpu_seconds']:.0f}" if "cpu_seconds" in each else ""
        times = [f"{each[key]:.1f}" if each[key] else "" for key in ("of_solve", "of_pass")]
        kept = {True: "yes", False: "no", None: ""}[each.get("kept")]
        print(
            f"{each['asked']:<9}{each['model']:<26}{each['perplexity']:>11.2f}"
            f"{each['gap_closed']:>12.0%}{each['kl']:>8.3f}{each['kl_closed']:>11.0%}{cpu:>8}",
            "{:>9}{:>9}{:>6}".format(*times, kept),
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="as birdbone's load takes it")
    parser.add_argument("--data", required=True, help="text to prune and to heal on")
    parser.add_argument("--heldout", required=True, help="text to judge by")
    parser.add_argument("--work", required=True, type=Path, help="folder for models and results")
    parser.add_argument("--asked", nargs="+", choices=tuple(STARTS), default=list(STARTS))
    parser.add_argument(
        "--heal", action="append", default=[], help="instead of the defaults: NAME={settings}"
    )
    parser.add_argument("--windows", type=int, default=64, help="to prune on")
    parser.add_argument("--healing-windows", type=int, default=64)
    parser.add_argument("--judge-windows", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    heals = dict(HEALS)
    if asked.heal:
        parts = [text.partition("=") for text in asked.heal]
        heals = {name: json.loads(given) for name, _, given in parts}
    bench = Bench(asked)
    rows = measure(bench, asked.asked, heals)
    setting = f"{asked.model}; {bench.setting()}"
    print(setting)
    show(bench.dense(), rows)
    if asked.json is not None:
        kept = {"setting": setting, "dense": bench.dense(), "results": rows}
        asked.json.write_text(json.dumps(kept, indent=2, default=str))


if __name__ == "__main__":
    main()
