"""Compare GGUF files with llama.cpp's quantiser at the same size, evaluated by llama.cpp.

python benchmarks/gguf_peers.py --model MODEL --calibration TEXT --judge TEXT --llama BIN --work DIR

BIN is a folder with llama-quantize, llama-imatrix and llama-perplexity. The peer's files are made
without and with an importance matrix, computed on the same tokens: the first --windows windows of
512 tokens of the calibration text. The tensor types of the peer are overridden to be equal to ours;
its default mixture, which gives a few tensors more bits, is shown too. "gap closed" is the fraction
of the peer's rise over F16 that is avoided. Files are stored in DIR, and the same command resumes
after the last one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import re
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from birdbone.checkpoints import Checkpoint
from birdbone.engine import Chain, run
from birdbone.formats.gguf_writer import write_gguf
from birdbone.links import load, quantize
from birdbone.models.reading.tokenizer import load_tokenizer
from birdbone.texts import Windows

LENGTH = 512

# Ours by grid; llama-quantize's name and what makes its types those of ours.
GRIDS: dict[str, tuple[str, list[str]]] = {
    "q4_0": ("Q4_0", []),
    "q4_k": ("Q4_K_S", ["--tensor-type", "ffn_down=q4_K", "--tensor-type", "attn_v=q5_0"]),
}


class Bench:
    """One model, its texts, llama.cpp's programs and the folder where files and results are."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.work: Path = asked.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.store = self.work / "results.json"
        self.results: dict[str, Any] = (
            json.loads(self.store.read_text()) if self.store.exists() else {}
        )

    def keep(self, key: str, found: Any) -> None:
        """Put a result where the next run finds it."""
        self.results[key] = found
        self.store.write_text(json.dumps(self.results, indent=1))

    def llama(self, program: str, *arguments: object) -> str:
        """What a program of llama.cpp says."""
        folder = self.asked.llama
        libraries = f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        command = [str(folder / program), *map(str, arguments)]
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
        )
        said = done.stdout + done.stderr
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed: {said[-2000:]}")
        return said

    def windows(self, checkpoint: Checkpoint) -> Windows:
        """The first windows of the calibration text, as llama-imatrix cuts them."""
        text = self.asked.calibration.read_text(encoding="utf-8")
        count = self.asked.windows * LENGTH
        # Far more characters than tokens, and far less work than all of the text.
        tokens = load_tokenizer(checkpoint)(text[: count * 12])["input_ids"][:count]
        return Windows(torch.tensor(tokens).view(-1, LENGTH), self.asked.calibration.name)

    def make_ours(self, context: dict[str, Any]) -> None:
        """F16, and a file for each grid."""
        dense = self.work / "f16.gguf"
        if not dense.exists():
            write_gguf(context["checkpoint"], dense, kind="f16")
        for grid in GRIDS:
            path = self.work / f"ours-{grid}.gguf"
            if path.exists():
                continue
            cpu = time.process_time()
            light = asyncio.run(run(Chain(quantize(grid=grid, **self.asked.settings)), context))
            self.keep(f"cpu-{grid}", time.process_time() - cpu)
            write_gguf(light["checkpoint"], path, kind=grid)

    def make_theirs(self) -> None:
        """Each grid's file by llama-quantize, without and with the importance matrix."""
        matrix = self.work / "imatrix.gguf"
        if not matrix.exists():
            self.llama(
                "llama-imatrix", "-m", self.work / "f16.gguf", "-f", self.asked.calibration,
                "-o", matrix, "-c", LENGTH, "-b", LENGTH, "--chunks", self.asked.windows, "-t", 1,
            )  # fmt: skip
        for grid, (kind, same_types) in GRIDS.items():
            for weighed, importance in (("", []), ("-imatrix", ["--imatrix", matrix])):
                for mixture, types in (("", same_types), ("-mixture", [])):
                    path = self.work / f"theirs-{grid}{weighed}{mixture}.gguf"
                    if path.exists() or (mixture and not same_types):
                        continue
                    arguments = [*importance, *types, self.work / "f16.gguf", path, kind, 1]
                    self.llama("llama-quantize", *arguments)

    def judge(self) -> None:
        """What each window costs in each file, by llama-perplexity, and the file's bytes."""
        for path in sorted(self.work.glob("*.gguf")):
            if path.stem in self.results or path.stem == "imatrix":
                continue
            # Its last words may be lost when it ends: two windows more than are read.
            said = self.llama(
                "llama-perplexity", "-m", path, "-f", self.asked.judge, "-c", LENGTH,
                "-b", LENGTH, "--chunks", self.asked.chunks + 2, "-t", 1,
            )  # fmt: skip
            running = {int(k): float(v) for k, v in re.findall(r"\[(\d+)\]([\d.]+),", said)}
            if not all(place in running for place in range(1, self.asked.chunks + 1)):
                raise SystemExit(f"llama-perplexity gave no figures for {path}: {said[-2000:]}")
            sums = [k * math.log(running[k]) for k in range(1, self.asked.chunks + 1)]
            windows = [one - other for one, other in zip(sums, [0.0, *sums], strict=False)]
            self.keep(path.stem, {"windows": windows, "bytes": path.stat().st_size})

    def table(self) -> None:
        """Each file's figures, and the share of theirs' rise over F16 that ours has not."""
        dense = perplexity(self.results["f16"])
        print("| file | bytes | perplexity | rise over F16 | ours less theirs, nats | gap closed |")
        print("|---|---:|---:|---:|---:|---:|")
        for name, found in sorted(self.results.items()):
            if not isinstance(found, dict):
                continue
            rise, beside = perplexity(found) - dense, "|"
            if name.startswith("theirs"):
                ours = self.results[f"ours-{name.split('-')[1]}"]
                closed = 1 - (perplexity(ours) - dense) / rise
                pairs = zip(ours["windows"], found["windows"], strict=True)
                differences = [one - other for one, other in pairs]
                error = statistics.stdev(differences) / len(differences) ** 0.5
                beside = f"{statistics.mean(differences):.4f} ± {error:.4f} | {closed:.0%}"
            print(
                f"| {name} | {found['bytes']:,} | {perplexity(found):.4f} | {rise:.4f} | {beside} |"
            )


def perplexity(found: dict[str, Any]) -> float:
    """Over the second half of each window, as llama-perplexity has it."""
    return math.exp(statistics.mean(found["windows"]))


def main() -> None:
    """Make what is not made yet, judge it, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    for name in ("--calibration", "--judge", "--llama", "--work"):
        parser.add_argument(name, required=True, type=Path)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--chunks", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--settings", type=json.loads, default={}, help="of quantize, as JSON")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    bench = Bench(asked)
    context: dict[str, Any] = asyncio.run(run(Chain(load(model=asked.model))))
    context["calibration"] = bench.windows(context["checkpoint"])
    bench.make_ours(context)
    bench.make_theirs()
    bench.judge()
    bench.table()


if __name__ == "__main__":
    main()
