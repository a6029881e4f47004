"""Fit beside uniform: what `birdbone fit` makes of several sizes, and the best uniform of each.

python benchmarks/frontier.py --model MODEL --judge TEXT --work DIR [--sizes 60MB 70MB 80MB 95MB
    110MB] [--data SOURCE] [--windows 32] [--uniform 2] [--remove 0.1] [--heal 64] [--gguf]

For every size the chain fit runs without save: allocated and uniform candidates are built and
judged on held-out text and on text from elsewhere. The kept candidate and the best uniform one are
written as folders, opened by plain transformers in float32, and scored on the first windows of
TEXT, which nothing else reads. All sizes share one run folder in DIR; frontier.json holds finished
sizes. The same command goes on after a stop.

With --remove models without that fraction of the neurons compete, the best of them healed too.
With --heal the scales of the kept candidate are trained on that many windows, and it is judged and
scored again.

With --gguf the sizes are those of GGUF files, which llama.cpp scores; use another DIR. Files of
llama.cpp's own quantiser at the same bytes are made and scored by gguf_peers.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from birdbone.chains.removing import with_removal
from birdbone.engine import Chain, run
from birdbone.journal import RunFolder
from birdbone.links import (
    allocate,
    calibrate,
    heal,
    load,
    quantize,
    select,
    sensitivity,
    validate,
)
from birdbone.middleware import Progress
from birdbone.models.evaluation.fresh_process import Probe
from birdbone.models.reading.tokenizer import load_tokenizer
from birdbone.models.writing.folder import write_model

SIZES = ("60MB", "70MB", "80MB", "95MB", "110MB")
_SHARD_BYTES = 5 * 10**9


def opened(asked: argparse.Namespace) -> Chain:
    """What all sizes share."""
    return Chain(
        load(model=asked.model, dtype=asked.dtype),
        calibrate(
            data=asked.data,
            windows=asked.windows,
            healing_windows=max(asked.windows if asked.remove else 1, asked.heal),
            heldout_windows=asked.judge_windows,
            elsewhere_windows=asked.judge_windows,
            length=asked.length,
        ),
        sensitivity(format="gguf" if asked.gguf else "compressed-tensors"),
    )


async def size_of(asked: argparse.Namespace, size: str) -> dict[str, Any]:
    """All candidates of one size as judged in memory, and two folders scored on the other text."""
    rounding = quantize(grid="allocated")
    start, judging = opened(asked), select(body=Chain(rounding, validate()))
    budget = allocate(bytes=size, variants=asked.variants, uniform=asked.uniform)
    *before, trying = with_removal(Chain(*start.links, budget, judging), asked.remove).links
    shared, whole = Chain(*before), Chain(trying)
    for each in (shared, whole):
        each.use(Progress())
    begun = time.process_time()
    with RunFolder(asked.work / "run") as store:
        ctx = await run(shared, store=store)
        result = await run(whole, ctx, store=store)
        tried = [dict(step.metrics) for step in result["history"] if step.link == "candidate"]
        for place in _places(tried):
            light = result
            if not tried[place]["kept"]:
                allocation = replace(ctx["allocation"], place=place)
                light = await run(Chain(rounding), {**ctx, "allocation": allocation}, store=store)
            tried[place] |= await scored(asked, light["checkpoint"])
        if asked.heal:
            tried.append(await healed(asked, result, store))
    return {"size": size, "cpu_seconds": time.process_time() - begun, "candidates": tried}


async def healed(asked: argparse.Namespace, ctx: Any, store: RunFolder) -> dict[str, Any]:
    """The kept candidate with trained scales, judged and scored; its bytes do not change."""
    chain = Chain(heal(method="scales"), validate())
    chain.use(Progress())
    result = await run(chain, ctx, store=store)
    kept, (healing, judging) = ctx["allocation"].current, result["history"][-2:]
    return {
        "candidate": f"{kept.name}, scales trained",
        "uniform": kept.uniform,
        "kept": healing.metrics["kept"],
        "predicted_bytes": kept.num_bytes,
        "seconds": healing.cost.seconds,
        **judging.metrics,
        **await scored(asked, result["checkpoint"]),
    }


def _places(tried: list[dict[str, Any]]) -> list[int]:
    """Of the kept candidate and of the best uniform one."""
    kept = next(place for place, each in enumerate(tried) if each["kept"])
    uniform = [place for place, each in enumerate(tried) if each["uniform"] and "rise" in each]
    best = sorted(uniform, key=lambda place: tried[place]["worse_rise"])[:1]
    return list(dict.fromkeys([kept, *best]))


def judging_windows(asked: argparse.Namespace, tokenizer: Any) -> torch.Tensor:
    """The first windows of the judging text."""
    text = asked.judge.read_text(encoding="utf-8")
    tokens = tokenizer(text, add_special_tokens=False, verbose=False, return_tensors="pt").input_ids
    length, count = asked.length, asked.scored_windows
    return tokens[0, : length * count].view(count, length)


async def scored(asked: argparse.Namespace, checkpoint: Any) -> dict[str, Any]:
    """Bytes and perplexity as the runtime of the format computes it."""
    by = scored_by_llama_cpp if asked.gguf else scored_by_transformers
    return await by(asked, checkpoint)


async def scored_by_llama_cpp(asked: argparse.Namespace, checkpoint: Any) -> dict[str, Any]:
    """Bytes of a written GGUF file, and perplexity by llama.cpp."""
    from birdbone.formats.gguf_writer import write_gguf
    from birdbone.formats.llama_cpp import measure_gguf

    written = write_gguf(checkpoint, asked.work / "light.gguf", force=True)
    windows = judging_windows(asked, load_tokenizer(checkpoint))
    probe = Probe(windows, torch.float32, prefill_tokens=8, decode_tokens=4, repeats=1)
    vocabulary = int(checkpoint.config["vocab_size"])
    found = await measure_gguf(written.path, probe, vocabulary, lambda *_: None)
    written.path.unlink()
    return {
        "file_bytes": written.num_bytes,
        "types": dict(written.kinds),
        "judge_perplexity": found.figures["light"]["perplexity"],
    }


async def scored_by_transformers(asked: argparse.Namespace, checkpoint: Any) -> dict[str, Any]:
    """Bytes of the files of a written folder, and perplexity by plain transformers."""
    folder = asked.work / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_model(checkpoint, folder, max_shard_bytes=_SHARD_BYTES)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    windows = judging_windows(asked, tokenizer)
    total = 0.0
    with torch.no_grad():
        for window in windows.split(1):
            logits = model(window, use_cache=False).logits[0, :-1]
            total += float(
                torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum")
            )
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    shutil.rmtree(folder)
    predicted = windows.numel() - len(windows)
    return {"file_bytes": size, "judge_perplexity": math.exp(total / predicted)}


def show(found: Mapping[str, Any]) -> None:
    """All candidates of one size."""
    print(f"\n{found['size']}, {found['cpu_seconds']:.0f} CPU s")
    head = f"{'bytes':>12}{'held-out':>10}{'rise':>8}{'elsewhere':>11}{'rise':>8}{'judge':>9}"
    print(f"{head}  candidate")
    for each in found["candidates"]:
        cells = [f"{each.get('file_bytes', each['predicted_bytes']):>12,}"]
        for prefix, width in (("", 10), ("elsewhere_", 11)):
            perplexity, rise = each.get(f"{prefix}perplexity"), each.get(f"{prefix}rise")
            cells.append(f"{'-' if perplexity is None else f'{perplexity:.3f}':>{width}}")
            cells.append(f"{'-' if rise is None else f'{rise:.1%}':>8}")
        judged = each.get("judge_perplexity")
        cells.append(f"{'' if judged is None else f'{judged:.3f}':>9}")
        print("".join(cells), f" {each['candidate']}{' (kept)' if each['kept'] else ''}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="as birdbone's load takes it")
    parser.add_argument("--judge", required=True, type=Path, help="text that scores the folders")
    parser.add_argument("--work", required=True, type=Path, help="folder for runs and results")
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--data", default="default", help="text to calibrate on")
    parser.add_argument("--dtype", default="bfloat16", help="of what is not quantised")
    parser.add_argument("--windows", type=int, default=32, help="to calibrate on")
    parser.add_argument("--judge-windows", type=int, default=8, help="of each text in memory")
    parser.add_argument("--scored-windows", type=int, default=20, help="of --judge")
    parser.add_argument("--length", type=int, default=512, help="tokens a window")
    parser.add_argument("--variants", type=int, default=2)
    parser.add_argument("--uniform", type=int, default=1)
    parser.add_argument("--remove", nargs="+", type=float, default=(), help="of the neurons")
    parser.add_argument("--heal", type=int, default=0, help="windows to train scales on")
    parser.add_argument("--gguf", action="store_true", help="sizes of GGUF files")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    asked.work.mkdir(parents=True, exist_ok=True)
    file = asked.work / "frontier.json"
    done = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for size in asked.sizes:
        if size not in done:
            done[size] = asyncio.run(size_of(asked, size))
            file.write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
        show(done[size])
    print(f"\n{asked.model}; torch {torch.__version__}, {torch.get_num_threads()} thread(s)")


if __name__ == "__main__":
    main()
