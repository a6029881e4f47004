"""Compare waves with one shot at the same size and the same amount of healing.

python benchmarks/waves.py --model MODEL --data TEXT --heldout TEXT --work DIR [--target 0.86]
    [--step 0.1] [--waves 3] [--epochs 1] [--pattern neurons] [--json FILE]

Three variants: waves that each heal; waves without healing, followed by healing for the same total
number of epochs; and a single wave with that healing. No wave is reverted. All variants use the
same windows of one text and are evaluated on the same windows of the other. Each keeps a run folder
in DIR, so that the same command resumes after a stop. "CPU" is seconds of all threads.
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
from healing import opened

from birdbone.engine import Chain, Link, run
from birdbone.journal import RunFolder
from birdbone.links import heal, profile, prune, score, validate
from birdbone.links.waves import waves
from birdbone.middleware import Progress

SIDES = ("waves", "healed once", "one shot")
_NEVER = 1e6  # a stop-loss that no wave breaks: what is compared is where both end


def healing(asked: argparse.Namespace, epochs: int) -> Link[Any]:
    return heal(epochs=epochs, precision=asked.precision, seed=asked.seed)


def chain(asked: argparse.Namespace, step: float, *healings: Link[Any]) -> Chain:
    """From the model to the last wave; each wave heals as given, or not at all."""
    body = Chain(prune(pattern=asked.pattern), *healings, validate(batch_size=1))
    return Chain(
        opened(asked, asked.length),
        profile(),
        score(),
        waves(body=body, target=asked.target, step=step, stop_loss=_NEVER),
    )


def side(asked: argparse.Namespace, name: str) -> dict[str, Any]:
    """Run one side; what was judged after every wave and at the end, and its seconds."""
    step = 1 - 1e-6 if name == "one shot" else asked.step
    epochs = asked.epochs * (1 if name == "waves" else asked.waves)
    within = () if name == "healed once" else (healing(asked, epochs),)
    after = (healing(asked, epochs), validate(batch_size=1)) if name == "healed once" else ()
    whole = Chain(chain(asked, step, *within), *after)
    whole.use(Progress())
    begun = time.process_time()
    with RunFolder(asked.work / name.replace(" ", "-")) as store:
        ctx: Mapping[str, Any] = asyncio.run(run(whole, store=store))
    cpu = time.process_time() - begun
    steps = [each.as_dict() for each in ctx["history"] if each.link in ("validate", "heal", "wave")]
    num_waves = sum(each["link"] == "wave" for each in steps) - 1
    return {"name": name, "waves": num_waves, "epochs": epochs, "cpu_seconds": cpu, "steps": steps}


def show(found: Mapping[str, Any]) -> None:
    """Every model that was judged, in turn."""
    print(
        f"\n{found['name']}: {found['waves']} wave(s), {found['epochs']} epoch(s) a heal, "
        f"{found['cpu_seconds']:.0f} CPU s"
    )
    print(f"{'parameters':>10}{'perplexity':>12}{'rise':>18}{'KL':>9}  heal kept")
    left, kept = 1.0, ""
    steps = found["steps"]
    for place, step in enumerate(steps):
        metrics = step["metrics"]
        if step["link"] == "heal":
            kept = "yes" if metrics["kept"] else "no"
        if step["link"] != "validate":
            continue
        if place + 1 < len(steps) and steps[place + 1]["link"] == "wave":
            left = steps[place + 1]["metrics"]["parameters_left"]
        rise = f"{metrics['rise']:.1%} ± {metrics['rise_error']:.1%}"
        figures = f"{metrics['perplexity']:>12.3f}{rise:>18}{metrics['mean_kl']:>9.4f}"
        print(f"{left:>10.1%}{figures}  {kept}".rstrip())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="as birdbone's load takes it")
    parser.add_argument("--data", required=True, help="text to prune and to heal on")
    parser.add_argument("--heldout", required=True, help="text to judge by")
    parser.add_argument("--work", required=True, type=Path, help="folder for the two run folders")
    parser.add_argument("--target", type=float, default=0.86, help="fraction of parameters to keep")
    parser.add_argument("--step", type=float, default=0.1)
    parser.add_argument("--waves", type=int, default=3, help="how many it takes at this step")
    parser.add_argument("--epochs", type=int, default=1, help="of healing, a wave")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
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
    found = [side(asked, name) for name in asked.sides]
    print(
        f"{asked.model}; windows of {asked.length} tokens: {asked.windows} to prune on, "
        f"{asked.healing_windows} to heal on, {asked.judge_windows} to judge by; "
        f"seed {asked.seed}, torch {torch.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} thread(s)"
    )
    for each in found:
        show(each)
        if each["name"] != "one shot" and each["waves"] != asked.waves:
            print(f"it took {each['waves']} waves: give --waves {each['waves']}, to heal alike")
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=2, default=str))


if __name__ == "__main__":
    main()
