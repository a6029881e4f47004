"""Compare the solvers on single layers: output error on unseen inputs, and CPU seconds.

python benchmarks/solvers.py [--shapes 576x576 576x1536] [--tokens 8192]
python benchmarks/solvers.py --model MODEL --data TEXT --heldout TEXT [--blocks 4 15]
python benchmarks/solvers.py --asked "50 %" --methods sparsegpt admm

Without a model, weights and inputs are random: inputs are correlated Gaussians whose channel scales
are log-normal, as in real models. With a model, each linear of the given blocks is solved on
windows of 512 tokens of one text (64 by default) and evaluated on half as many of the other, with
inputs from the original model; each of three seeds chooses other windows. Errors are
||X(W - V)'||^2 / ||XW'||^2 on the evaluation tokens. Ratios are geometric means over layers,
relative to the first row of a table, with their spread over the seeds. "below" is the fraction of
layers and seeds with less error than that row. The column of a shape has the ratio and CPU seconds
per layer. Methods take turns on each layer, so that other load affects all. The results of each
layer are also written to a JSON file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from birdbone.engine import Chain, run
from birdbone.links import calibrate, load
from birdbone.models.blocks.linears import find_linears
from birdbone.models.blocks.replay import capture, replay
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.passes.inputs import sum_inputs
from birdbone.solvers.gptq import quantize_gptq
from birdbone.solvers.gram import Gram, GramAccumulator
from birdbone.solvers.grid import Grid
from birdbone.solvers.least_squares import refit
from birdbone.solvers.masks import Pattern
from birdbone.solvers.output_error import relative_output_error
from birdbone.solvers.table import PREPARE, PRUNERS, QUANTIZERS

PRUNED = {"50 %": (0.5, "unstructured"), "70 %": (0.7, "unstructured"), "2:4": (None, "2:4")}
QUANTIZED = {"int4 g64": Grid(4, 64), "int3 g64": Grid(3, 64), "int8 g64": Grid(8, 64)}
BATCH_SIZE = 4
LENGTH = 512

Solve = Callable[[Tensor, Gram], Tensor]


@dataclass(frozen=True, eq=False)
class Layer:
    """A weight, the Gram it is solved on and the Gram it is judged on, and the seed of both."""

    name: str
    seed: int
    weight: Tensor
    seen: Gram
    unseen: Gram


def solvers(asked: argparse.Namespace) -> dict[str, dict[str, Solve]]:
    """Tables of methods by pattern or sparsity; ratios are relative to the first of each."""
    tables = {label: every_solver()[label] for label in asked.asked}
    if asked.methods is None:
        return tables
    some = {
        label: {name: solve for name, solve in methods.items() if name in asked.methods}
        for label, methods in tables.items()
    }
    return {label: methods for label, methods in some.items() if methods}


def every_solver() -> dict[str, dict[str, Solve]]:
    """All tables, whole."""
    tables: dict[str, dict[str, Solve]] = {}
    for label, (sparsity, pattern) in PRUNED.items():
        wanted = Pattern.parse(pattern)
        names = sorted(PRUNERS, key=lambda name: name != "sparsegpt")
        tables[label] = {name: partial(thin, name, sparsity, wanted, 0) for name in names}
        tables[label]["sparsegpt + 10 CG"] = partial(thin, "sparsegpt", sparsity, wanted, 10)
    for label, grid in QUANTIZED.items():
        published: dict[str, Any] = {"scales": "minmax", "order": "static"}
        tables[label] = {"gptq min-max": partial(gptq, grid, published)}
        tables[label].update({name: partial(rounded, name, grid) for name in QUANTIZERS})
        refined: dict[str, Any] = {"refit": True, "sweeps": 2}
        tables[label]["gptq refined"] = partial(gptq, grid, refined)
    return tables


def thin(
    name: str, sparsity: float | None, pattern: Pattern, polish: int, weight: Tensor, gram: Gram
) -> Tensor:
    prepared = PREPARE[name](gram, damping=0.01) if name in PREPARE else None
    pruned = PRUNERS[name](weight, gram, sparsity=sparsity, pattern=pattern, factor=prepared)
    if not polish:
        return pruned.weight
    return refit(weight, pruned.mask, gram, start=pruned.weight, steps=polish)


def rounded(name: str, grid: Grid, weight: Tensor, gram: Gram) -> Tensor:
    prepared = PREPARE[name](gram, damping=0.01) if name in PREPARE else None
    return QUANTIZERS[name](weight, gram, grid=grid, factor=prepared).dequantize()


def gptq(grid: Grid, settings: dict[str, Any], weight: Tensor, gram: Gram) -> Tensor:
    return quantize_gptq(weight, gram, grid=grid, **settings).dequantize()


def drawn(rows: int, cols: int, tokens: int, seed: int) -> Layer:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, cols, generator=draw)
    mix = torch.randn(cols, cols, generator=draw) / cols**0.5 + torch.eye(cols)
    scale = torch.randn(cols, generator=draw).exp()
    inputs = (torch.randn(2 * tokens, cols, generator=draw) @ mix) * scale
    seen, unseen = inputs[:tokens], inputs[tokens:]
    name = f"{rows}x{cols}"
    return Layer(name, seed, weight, Gram(seen.T @ seen, tokens), Gram(unseen.T @ unseen, tokens))


def of_model(asked: argparse.Namespace, seed: int) -> Iterator[Layer]:
    """Every linear of the blocks named, with the Grams of both texts."""
    text = calibrate(
        data=asked.data,
        heldout_data=asked.heldout,
        windows=asked.windows,
        heldout_windows=max(asked.windows // 2, 1),
        length=LENGTH,
        seed=seed,
    )
    ctx: Any = asyncio.run(run(Chain(load(model=asked.model, dtype="float32"), text)))
    skeleton = Skeleton(ctx["checkpoint"])
    both = [capture(skeleton, ctx[k].tokens.split(BATCH_SIZE)) for k in ("calibration", "heldout")]
    states = [[batch.hidden for batch in batches] for batches in both]
    for index, block in skeleton.each_block():
        if index > max(asked.blocks):
            return
        prefix = f"{skeleton.path}.{index}."
        linears = find_linears(block, prefix) if index in asked.blocks else []
        grams = []
        for place, batches in enumerate(both):
            calls = [batch.calls[index] for batch in batches]
            if linears:
                groups, states[place] = sum_inputs(
                    block, prefix, linears, states[place], calls, GramAccumulator
                )
                found = [(group, group.sum.gram()) for group in groups]
                grams.append({each: gram for group, gram in found for each in group.linears})
            else:
                with torch.no_grad():
                    pairs = zip(states[place], calls, strict=True)
                    states[place] = [replay(block, hidden, call) for hidden, call in pairs]
        for linear in linears:
            weight = linear.view(skeleton.model.get_parameter(linear.tensor).detach()).clone()
            yield Layer(linear.name, seed, weight, grams[0][linear], grams[1][linear])


@dataclass(frozen=True)
class Run:
    """One method on one layer."""

    name: str
    shape: str
    seed: int
    error: float
    cpu_seconds: float


def measure(layers: Iterable[Layer], tables: dict[str, dict[str, Solve]]) -> list[dict[str, Any]]:
    """Every method of every table over all layers."""
    found: dict[tuple[str, str], list[Run]] = {}
    for layer in layers:
        for label, methods in tables.items():
            for name, solve in methods.items():
                start = time.process_time()
                solved = solve(layer.weight, layer.seen)
                seconds = time.process_time() - start
                error = relative_output_error(layer.weight, solved, layer.unseen)
                shape = "x".join(str(side) for side in layer.weight.shape)
                each = Run(layer.name, shape, layer.seed, error, seconds)
                found.setdefault((label, name), []).append(each)
    bases = {label: found[label, next(iter(methods))] for label, methods in tables.items()}
    return [summary(label, name, runs, bases[label]) for (label, name), runs in found.items()]


def summary(label: str, name: str, runs: list[Run], base: list[Run]) -> dict[str, Any]:
    ratios = [run.error / first.error for run, first in zip(runs, base, strict=True)]
    pairs = list(zip(runs, ratios, strict=True))
    by_seed = [
        geometric_mean([ratio for run, ratio in pairs if run.seed == seed])
        for seed in sorted({run.seed for run in runs})
    ]
    return {
        "asked": label,
        "method": name,
        "error": statistics.fmean(run.error for run in runs),
        "ratio": geometric_mean(ratios),
        "spread": statistics.stdev(by_seed) if len(by_seed) > 1 else 0.0,
        "worst_ratio": max(ratios),
        "below": sum(ratio < 1 for ratio in ratios) / len(ratios),
        "cpu_seconds": sum(run.cpu_seconds for run in runs),
        "shapes": {
            shape: {
                "ratio": geometric_mean([ratio for run, ratio in pairs if run.shape == shape]),
                "cpu_seconds": statistics.fmean(
                    run.cpu_seconds for run in runs if run.shape == shape
                ),
            }
            for shape in sorted({run.shape for run in runs})
        },
        "layers": [{**asdict(run), "ratio": ratio} for run, ratio in pairs],
    }


def geometric_mean(ratios: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))


def show(results: list[dict[str, Any]]) -> None:
    shapes = list(results[0]["shapes"])
    head = ("asked", "method", "error", "ratio", "spread", "worst", "below", "CPU s")
    print(
        "{:<10}{:<20}{:>9}{:>8}{:>8}{:>8}{:>8}{:>8}".format(*head)
        + "".join(f"{shape:>16}" for shape in shapes)
    )
    for row in results:
        print(
            f"{row['asked']:<10}{row['method']:<20}{row['error']:>9.5f}{row['ratio']:>8.3f}"
            f"{row['spread']:>8.3f}{row['worst_ratio']:>8.3f}{row['below']:>8.0%}"
            f"{row['cpu_seconds']:>8.2f}"
            + "".join(
                f"{row['shapes'][shape]['ratio']:>8.3f}{row['shapes'][shape]['cpu_seconds']:>8.3f}"
                for shape in shapes
            )
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", default=["576x576", "576x1536"], help="ROWSxCOLS")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--model", help="as birdbone's load takes it")
    parser.add_argument("--data", help="text to solve on")
    parser.add_argument("--heldout", help="text to judge by")
    parser.add_argument("--blocks", nargs="+", type=int, default=[4, 15])
    every = every_solver()
    parser.add_argument("--asked", nargs="+", choices=tuple(every), default=list(every))
    methods = sorted({name for table in every.values() for name in table})
    parser.add_argument(
        "--methods", nargs="+", choices=methods, help="some of a table's; the first is the base"
    )
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", type=Path, default=Path("solvers.json"), help="where to write")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    if asked.model is None:
        shapes = [[int(side) for side in shape.split("x")] for shape in asked.shapes]
        layers = (drawn(*shape, asked.tokens, seed) for seed in asked.seeds for shape in shapes)
        what = f"drawn weights {asked.shapes}, {asked.tokens} tokens each"
    else:
        layers = (layer for seed in asked.seeds for layer in of_model(asked, seed))
        what = (
            f"{asked.model}, blocks {asked.blocks}; solved on {asked.windows} windows of {LENGTH} "
            f"tokens of {asked.data}, judged on {max(asked.windows // 2, 1)} of {asked.heldout}"
        )
    results = measure(layers, solvers(asked))
    setting = (
        f"{what}; seeds {asked.seeds}; float32, torch {torch.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads"
    )
    print(setting)
    show(results)
    asked.json.write_text(json.dumps({"setting": setting, "results": results}, indent=2))


if __name__ == "__main__":
    main()
