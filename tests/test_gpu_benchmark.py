"""benchmarks/gpu.py is run where there is a GPU, seldom; here it runs with tiny sizes."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pretend_device import NAME, pretended

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [each for inner in value.values() for each in numbers(inner)]
    return [value] if isinstance(value, int | float) else []


def figures(gpu: ModuleType, out: Path, *words: str) -> dict[str, Any]:
    gpu.main(["--small", "--out", str(out), *words])
    found: dict[str, Any] = json.loads(out.read_text())
    assert "failed" not in out.read_text(), found
    assert "skipped" not in out.read_text(), found
    assert all(math.isfinite(each) and each >= 0 for each in numbers(found))
    return found


def test_on_an_accelerator(gpu: ModuleType, tmp_path: Path) -> None:
    with pretended(limit=100_000_000):
        some = ("--only", "prune sparsegpt", "quantize gptq", "validate")
        found = figures(gpu, tmp_path / "gpu.json", *some)
    assert found["device"]["type"] == NAME
    assert found["device"]["total_bytes"] == 100_000_000
    assert set(found["solvers"]) == {"64x64", "64x128"}
    assert {"plain loop, int4", "gptq", "sparsegpt"} <= found["solvers"]["64x128"].keys()
    model = found["models"]["tiny"]
    assert 0 < model["peak_bytes"] <= model["foretold_bytes"]
    assert model["bytes_there"] > model["parameters"]
    assert model["bytes_after"] < model["bytes_before"]
    pruned = found["correctness"]["prune sparsegpt"]
    assert pruned["largest_difference"] < 0.01
    assert pruned["bytes_there"] > 0
    judged = found["correctness"]["validate"]
    assert judged["perplexity"] == pytest.approx(judged["perplexity_on_cpu"], rel=1e-4)


@pytest.mark.slow
def test_everything_runs_on_the_cpu(gpu: ModuleType, tmp_path: Path) -> None:
    found = figures(gpu, tmp_path / "gpu.json", "--device", "cpu")
    assert found["correctness"].keys() == gpu.methods().keys()
    for each in found["correctness"].values():
        assert (each["largest_difference"], each["bytes_there"]) == (0, 0)


def test_without_time_nothing_is_begun(gpu: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    gpu.main(["--small", "--out", str(out), "--device", "cpu", "--minutes", "0"])
    found = json.loads(out.read_text())
    assert found["correctness"]["validate"] == {"skipped": "no time was left"}


def test_transfers_are_counted_where_they_cross(gpu: ModuleType) -> None:
    with pretended(), gpu.counted() as moved:
        there = torch.zeros(10).to(NAME)
        there.to(torch.float64)
        there.cpu()
        there[:5].copy_(torch.ones(5))
        torch.zeros(3).to("meta")
    assert (moved.there, moved.back) == (40 + 20, 40)
    assert torch.zeros(1).to is not None


def test_the_plain_loop_rounds_with_feedback(gpu: ModuleType) -> None:
    """The outputs are nearer than those of rounding each column by itself."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(64, 64, generator=generator)
    inputs = torch.randn(512, 64, generator=generator) @ mix
    weight = torch.randn(8, 64, generator=generator)
    sums = gpu.GramAccumulator(64)
    sums.add(inputs)
    found = gpu.plain_loop(weight, sums.gram())
    scale = weight.abs().amax(1, keepdim=True) / 7
    alone = (weight / scale).round().clamp(-8, 7) * scale

    def error(values: torch.Tensor) -> float:
        return float(((values - weight) @ inputs.T).norm())

    assert error(found) < 0.8 * error(alone)
