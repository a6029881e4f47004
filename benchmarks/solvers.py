"""Every solver on one layer: output error on inputs it has not seen, and CPU seconds.

python benchmarks/solvers.py [--rows 576] [--cols 1536] [--tokens 8192] [--json FILE]

Weights and inputs are drawn: inputs are correlated Gaussians whose channels differ in scale by a
log-normal factor, as a model's do. Errors are ||X(W - V)'||^2 / ||XW'||^2 on a second draw of as
many tokens. Three seeds; mean and spread. Methods take turns within a seed, so that a noisy machine
is noisy for all of them; ratios are to the first row of each table.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from birdbone.solvers.factor import factorize
from birdbone.solvers.gram import Gram
from birdbone.solvers.grid import Grid
from birdbone.solvers.masks import Pattern
from birdbone.solvers.output_error import relative_output_error
from birdbone.solvers.table import PRUNERS, QUANTIZERS, USES_FACTOR

SEEDS = (0, 1, 2)
PRUNED = {"50 %": (0.5, "unstructured"), "70 %": (0.7, "unstructured"), "2:4": (None, "2:4")}
QUANTIZED = {"int4 g64": Grid(4, 64), "int8 g64": Grid(8, 64)}

Solve = Callable[[Tensor, Gram], Tensor]


def solvers() -> dict[str, dict[str, Solve]]:
    """Each table of methods by what it is asked for."""
    tables: dict[str, dict[str, Solve]] = {}
    for label, (sparsity, pattern) in PRUNED.items():
        tables[label] = {name: pruner(name, sparsity, pattern) for name in PRUNERS}
    for label, grid in QUANTIZED.items():
        tables[label] = {name: quantizer(name, grid) for name in QUANTIZERS}
    return tables


def pruner(name: str, sparsity: float | None, pattern: str) -> Solve:
    def solve(weight: Tensor, gram: Gram) -> Tensor:
        factor = factorize(gram) if name in USES_FACTOR else None
        wanted = Pattern.parse(pattern)
        return PRUNERS[name](weight, gram, sparsity=sparsity, pattern=wanted, factor=factor).weight

    return solve


def quantizer(name: str, grid: Grid) -> Solve:
    def solve(weight: Tensor, gram: Gram) -> Tensor:
        factor = factorize(gram) if name in USES_FACTOR else None
        return QUANTIZERS[name](weight, gram, grid=grid, factor=factor).dequantize()

    return solve


def layer(rows: int, cols: int, tokens: int, seed: int) -> tuple[Tensor, Gram, Gram]:
    """A weight, the Gram it is solved on and the Gram it is judged on."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, cols, generator=draw)
    mix = torch.randn(cols, cols, generator=draw) / cols**0.5 + torch.eye(cols)
    scale = torch.randn(cols, generator=draw).exp()
    inputs = (torch.randn(2 * tokens, cols, generator=draw) @ mix) * scale
    seen, unseen = inputs[:tokens], inputs[tokens:]
    return weight, Gram(seen.T @ seen, tokens), Gram(unseen.T @ unseen, tokens)


def measure(rows: int, cols: int, tokens: int) -> list[dict[str, float | str]]:
    """Mean and spread over the seeds of every method of every table."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed in SEEDS:
        weight, seen, unseen = layer(rows, cols, tokens, seed)
        for label, methods in solvers().items():
            for name, solve in methods.items():
                start = time.process_time()
                solved = solve(weight, seen)
                seconds = time.process_time() - start
                error = relative_output_error(weight, solved, unseen)
                found.setdefault((label, name), []).append((error, seconds))
    return [summary(label, name, pairs) for (label, name), pairs in found.items()]


def summary(label: str, name: str, pairs: list[tuple[float, float]]) -> dict[str, float | str]:
    errors, seconds = zip(*pairs, strict=True)
    return {
        "asked": label,
        "method": name,
        "error": statistics.fmean(errors),
        "error_spread": statistics.stdev(errors),
        "cpu_seconds": statistics.median(seconds),
    }


def show(results: list[dict[str, float | str]]) -> None:
    print(f"{'asked':<10}{'method':<12}{'held-out error':>20}{'ratio':>8}{'CPU s':>8}")
    first: dict[str, float] = {}
    for row in results:
        error = float(row["error"])
        base = first.setdefault(str(row["asked"]), error)
        spread = f"{error:.5f} ± {float(row['error_spread']):.5f}"
        cpu = float(row["cpu_seconds"])
        print(f"{row['asked']:<10}{row['method']:<12}{spread:>20}{error / base:>8.2f}{cpu:>8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=576)
    parser.add_argument("--cols", type=int, default=1536)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    results = measure(asked.rows, asked.cols, asked.tokens)
    setting = (
        f"weight {asked.rows} x {asked.cols}, {asked.tokens} drawn tokens to solve on and as many "
        f"to judge on, float32, seeds {SEEDS}, torch {torch.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads"
    )
    print(setting)
    show(results)
    if asked.json is not None:
        asked.json.write_text(json.dumps({"setting": setting, "results": results}, indent=2))


if __name__ == "__main__":
    main()
