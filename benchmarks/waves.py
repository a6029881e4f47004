"""Waves beside one shot: the same size, the same healing in all, thinned in steps or at once.

python benchmarks/waves.py --model MODEL --data TEXT --heldout TEXT --work DIR [--target 0.86]
    [--step 0.1] [--epochs 1] [--pattern neurons] [--json FILE]

Waves first; then one wave that takes all at once and heals as many epochs as all of them had
together. No wave is reverted. Both work on the same windows of the one text and are judged on the
same windows of the other. Each side keeps a run folder in DIR: the same command goes on after a
stop. "CPU" is seconds of all threads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from birdbone.chains.waves import waves
from birdbone.engine import Chain, run
from birdbone.journal import RunFolder
from birdbone.links import calibrate, heal, load, profile, prune, score, validate
from birdbone.middleware import Progress
from birdbone.reports.waves import WaveRow, wave_rows

_NEVER = 1e6  # a stop-loss that no wave breaks: what is compared is where both end


def chain(asked: argparse.Namespace, step: float, epochs: int) -> Chain:
    """One side, from the model to the last wave."""
    body = Chain(
        prune(pattern=asked.pattern),
        heal(epochs=epochs, precision=asked.precision, seed=asked.seed),
        validate(batch_size=1),
    )
    return Chain(
        load(model=asked.model, dtype="float32"),
        calibrate(
            data=asked.data,
            heldout_data=asked.heldout,
            windows=asked.windows,
            healing_windows=asked.healing_windows,
            heldout_windows=asked.judge_windows,
            length=asked.length,
            seed=asked.seed,
        ),
        profile(),
        score(),
        waves(body=body, target=asked.target, step=step, stop_loss=_NEVER),
    )


def side(asked: argparse.Namespace, name: str, step: float, epochs: int) -> dict[str, Any]:
    """Run one side; its waves, what its heals found, and its seconds."""
    whole = chain(asked, step, epochs)
    whole.use(Progress())
    begun = time.process_time()
    with RunFolder(asked.work / name) as store:
        ctx: Mapping[str, Any] = asyncio.run(run(whole, store=store))
    cpu = time.process_time() - begun
    history = ctx["history"]
    heals = [each.as_dict() for each in history if each.link == "heal"]
    waved = [each.as_dict() for each in history if each.link == "wave"]
    return {"name": name, "epochs": epochs, "cpu_seconds": cpu, "waves": waved, "heals": heals}


def show(found: Mapping[str, Any]) -> None:
    print(f"\n{found['name']}, {found['epochs']} epoch(s) a wave, {found['cpu_seconds']:.0f} CPU s")
    print(f"{'wave':<6}{'parameters':>12}{'perplexity':>12}{'rise':>18}{'KL':>9}{'healed':>8}")
    kept = [each["metrics"]["kept"] for each in found["heals"]]
    for row, step in zip(rows(found), found["waves"], strict=True):
        healed = "" if row.number == 0 else "yes" if kept[row.number - 1] else "no"
        print(
            f"{row.number:<6}{row.left['parameters']:>12.1%}{row.perplexity:>12.3f}"
            f"{f'{row.rise:.1%} ± {row.rise_error:.1%}':>18}"
            f"{step['metrics']['mean_kl']:>9.4f}{healed:>8}"
        )


def rows(found: Mapping[str, Any]) -> list[WaveRow]:
    return wave_rows(found["waves"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="as birdbone's load takes it")
    parser.add_argument("--data", required=True, help="text to prune and to heal on")
    parser.add_argument("--heldout", required=True, help="text to judge by")
    parser.add_argument("--work", required=True, type=Path, help="folder for the two run folders")
    parser.add_argument("--target", type=float, default=0.86, help="share of parameters to remain")
    parser.add_argument("--step", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=1, help="of healing, a wave")
    parser.add_argument("--pattern", default="neurons")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--windows", type=int, default=32, help="to prune on")
    parser.add_argument("--healing-windows", type=int, default=64)
    parser.add_argument("--judge-windows", type=int, default=24)
    parser.add_argument("--length", type=int, default=512, help="tokens a window")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    waved = side(asked, "waves", asked.step, asked.epochs)
    num_waves = len(waved["waves"]) - 1
    single = side(asked, "one-shot", 1 - 1e-6, asked.epochs * num_waves)
    print(
        f"{asked.model}; windows of {asked.length} tokens: {asked.windows} to prune on, "
        f"{asked.healing_windows} to heal on, {asked.judge_windows} to judge by; "
        f"seed {asked.seed}, torch {torch.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} thread(s)"
    )
    for each in (waved, single):
        show(each)
    if asked.json is not None:
        asked.json.write_text(json.dumps([waved, single], indent=2, default=str))


if __name__ == "__main__":
    main()
