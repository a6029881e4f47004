"""Compare compressed models with those of other tools: same calibration tokens, same judge.

python benchmarks/table.py --work DIR --page docs/benchmarks.md --model MODEL --calibration TEXT
    --judge NAME=TEXT [--judge NAME=TEXT] [--drift 0 16] [--seeds 0 1 2] [--results FILE]
    [--peer llm-compressor=PYTHON] [--peer AutoRound=PYTHON] [--peer Torch-Pruning=PYTHON]

PYTHON is the interpreter of an environment that has the peer and torch. Each run is a separate
process. Results are stored in DIR/results.json, or FILE, and the same command resumes after the
last stored run; a failed run, or one of a peer that is not given, is tried again. --tasks,
--methods, --seeds and --drift choose some of the runs. --page writes the table of all stored
results between the markers of a page; without --model nothing is run.

The seed chooses the calibration windows. The judge is the perplexity of the float32 model, with
the peers' weights as dense tensors, on the first windows of each judging text. --drift N first
trains all weights for N steps on the calibration windows of seed 0, which moves a model that was
quantised before off its grid. TEXT is a file or a built-in source, as `calibrate` takes it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from own_run import perplexity
from safetensors.torch import load_file, save_file
from table_page import write_page
from table_rows import PEERS, TASKS, Method, Task

from birdbone.checkpoints import Checkpoint
from birdbone.engine import Chain, run
from birdbone.links import load
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.reading.tokenizer import load_tokenizer
from birdbone.models.units.narrowing import Narrowing, narrowing, units_of
from birdbone.texts import Windows, pack_windows, read_corpus

BATCH_SIZE = 4


class Store:
    """The results in a file, by condition and run; written after every change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.conditions: dict[str, Any] = {}
        if self.path.exists():
            self.conditions = json.loads(self.path.read_text())

    def condition(self, setting: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The key and the results of one model, drift, amount of text and set of texts."""
        key = sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:12]
        return key, self.conditions.setdefault(
            key, {"setting": dict(setting), "runs": {}, "failed": {}}
        )

    def write(self) -> None:
        aside = self.path.with_suffix(".aside")
        aside.write_text(json.dumps(self.conditions, indent=2))
        aside.replace(self.path)


class Bench:
    """One model at one drift, its texts, and its part of the results."""

    def __init__(self, asked: argparse.Namespace, store: Store, drift: int) -> None:
        self.asked, self.store = asked, store
        self.work: Path = asked.work
        self.work.mkdir(parents=True, exist_ok=True)
        given = opened(asked.model)
        self.tokenizer = load_tokenizer(given)
        self.judges = {name: self._windows(text, asked.judge_windows) for name, text in asked.judge}
        self.text = self._windows(asked.calibration, None)
        name = Path(asked.model).name
        first = drawn(self.text, 0, asked.windows)
        setting = {
            "model": name,
            "id": given.id[:12],
            "drift": drift,
            "windows": first.num_windows,
            "length": first.length,
            "calibration": [Path(asked.calibration).name, first.digest[:12]],
            "judges": {
                name: [each.num_windows, each.digest[:12]] for name, each in self.judges.items()
            },
        }
        self.key, self.results = store.condition(setting)
        self.folder = self._dense(given, first, drift)
        self.checkpoint = opened(str(self.folder))

    def _windows(self, text: str, limit: int | None) -> Windows:
        documents = read_corpus(text, self.tokenizer).documents
        length = self.asked.length
        return pack_windows(documents, self.tokenizer, length=length, limit=limit, text=text)

    def _dense(self, given: Checkpoint, windows: Windows, steps: int) -> Path:
        """The model as a plain float32 folder, which all sides load."""
        folder = self.work / f"dense-{self.key}"
        if not folder.exists():
            whole = Skeleton(given).fill()
            if steps:
                drift(whole, windows, steps)
            aside = Path(tempfile.mkdtemp(dir=self.work))
            whole.save_pretrained(aside)
            for name, content in given.top_files.items():
                (aside / name).write_bytes(content)
            aside.rename(folder)
        return folder

    def measure(self) -> None:
        """Every run asked for that is not stored yet."""
        if "dense" not in self.results["runs"]:
            self._keep("dense", {"perplexity": self._judged(self.checkpoint)})
        for seed, task, method in runs(self.asked):
            key = f"{task.label} / {method.label} / seed {seed}"
            if key not in self.results["runs"]:
                self._try(key, task, method, seed)

    def _try(self, key: str, task: Task, method: Method, seed: int) -> None:
        try:
            record = self._run(task, method, seed)
        except RunFailedError as error:
            print(f"{key}: – ({error})", file=sys.stderr, flush=True)
            self.results["failed"][key] = str(error)
            self.store.write()
        else:
            self.results["failed"].pop(key, None)
            self._keep(key, record)

    def _run(self, task: Task, method: Method, seed: int) -> dict[str, Any]:
        change = self._change(task)
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            windows = drawn(self.text, seed, self.asked.windows)
            texts = {"tokens": windows.tokens}
            if method.healing_windows:
                more = drawn(self.text, seed, method.healing_windows, skip=windows.num_windows)
                texts["healing"] = more.tokens
            save_file(texts, Path(folder, "texts.safetensors"))
            job = {
                "model": str(self.folder.resolve()),
                "texts": str(Path(folder, "texts.safetensors").resolve()),
                "threads": self.asked.threads,
                "batch_size": BATCH_SIZE,
                "weights": str(Path(folder, "weights.safetensors").resolve()),
                "record": str(Path(folder, "record.json").resolve()),
                "links": [with_sparsity(link, change) for link in method.links],
                "task": {**task.settings, **method.extra, **sizes(change)},
            }
            path = Path(folder, "job.json")
            path.write_text(json.dumps(job))
            finish([*command(method, self.asked.peer), str(path.resolve())], self.asked.threads)
            record: dict[str, Any] = json.loads(Path(job["record"]).read_text())
            config = {} if change is None else change.config
            light = self.checkpoint.evolve(load_file(job["weights"]), config=config)
            return {
                **record,
                "perplexity": self._judged(light),
                "parameters": light.num_parameters,
                "tokens": windows.digest[:12],
            }

    def _change(self, task: Task) -> Narrowing | None:
        """The neurons to remove, so that the blocks lose the fraction of their parameters."""
        if "fraction" not in task.settings:
            return None
        checkpoint = self.checkpoint
        before = units_of(checkpoint, "neurons")
        blocks = Skeleton(checkpoint).path
        inside = {
            name: ref for name, ref in checkpoint.refs.items() if name.startswith(f"{blocks}.")
        }
        total = sum(ref.num_values for ref in inside.values())
        half = narrowing(checkpoint, "neurons", before // 2)
        parts = tuple(f".{part.tensor}" for part in half.parts)
        of_neurons = sum(ref.num_values for name, ref in inside.items() if name.endswith(parts))
        gone = round(task.settings["fraction"] * total / of_neurons * before)
        return narrowing(checkpoint, "neurons", before - gone)

    def _judged(self, checkpoint: Checkpoint) -> dict[str, float]:
        return {name: perplexity(checkpoint, each) for name, each in self.judges.items()}

    def _keep(self, key: str, record: dict[str, Any]) -> None:
        self.results["runs"][key] = {
            **record,
            "machine": f"{platform.machine()}, {self.asked.threads} thread(s)",
        }
        self.store.write()
        figures = ", ".join(f"{name} {each:.3f}" for name, each in record["perplexity"].items())
        print(f"{key}: perplexity {figures}", file=sys.stderr, flush=True)


class RunFailedError(Exception):
    """A run that cannot be made, and why."""


def opened(model: str) -> Checkpoint:
    ctx: Any = asyncio.run(run(Chain(load(model=model, dtype="float32"))))
    found: Checkpoint = ctx["checkpoint"]
    return found


def drawn(text: Windows, seed: int, count: int, skip: int = 0) -> Windows:
    """A random choice of windows in the order of the text; those after the first ``skip`` drawn."""
    order = torch.randperm(text.num_windows, generator=torch.Generator().manual_seed(seed))
    chosen = order[skip : skip + count].sort().values
    return Windows(text.tokens[chosen].contiguous(), text.text)


def runs(asked: argparse.Namespace) -> Iterator[tuple[int, Task, Method]]:
    """The runs in order; a method that uses no text is run with the first seed only."""
    for place, seed in enumerate(asked.seeds):
        for label in asked.tasks:
            for method in TASKS[label].methods:
                if (method.uses_text or place == 0) and chosen(method, asked.methods):
                    yield seed, TASKS[label], method


def chosen(method: Method, words: list[str] | None) -> bool:
    return words is None or any(word in method.label for word in words)


def with_sparsity(
    link: tuple[str, Mapping[str, Any]], change: Narrowing | None
) -> tuple[str, dict[str, Any]]:
    """The link with the sparsity of the neurons to remove, if it removes them."""
    name, settings = link
    if name != "prune" or change is None:
        return name, dict(settings)
    return name, {**settings, "sparsity": 1 - change.after / change.before}


def sizes(change: Narrowing | None) -> dict[str, Any]:
    """The same for a peer: the tensor that the neurons feed, and how many remain."""
    if change is None:
        return {}
    return {"output": change.output.tensor, "before": change.before, "after": change.after}


def command(method: Method, peers: Mapping[str, str]) -> list[str]:
    """What runs a method, without the job.

    Raises:
        RunFailedError: its peer's interpreter was not given.
    """
    here = Path(__file__).parent
    if method.peer is None:
        return [sys.executable, str(here / "own_run.py")]
    if method.peer not in peers:
        raise RunFailedError(f"no environment given: --peer {method.peer}=PYTHON")
    return [peers[method.peer], str(here / PEERS[method.peer])]


def finish(words: list[str], threads: int) -> None:
    """Run a command to its end.

    Raises:
        RunFailedError: it did not start, or it failed; with the last line it wrote to stderr.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    try:
        ended = subprocess.run(words, env=environment, capture_output=True, text=True)
    except OSError as error:
        raise RunFailedError(f"{words[0]} does not start: {error.strerror}") from error
    if ended.returncode:
        print(ended.stderr[-4000:], file=sys.stderr, flush=True)
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunFailedError(f"exit status {ended.returncode}: {last}")


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


def pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    return name, value


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder for models, and for results by default")
    parser.add_argument("--results", type=Path, help="file of results [results.json in --work]")
    parser.add_argument("--page", type=Path, help="page with markers to write the table to")
    parser.add_argument("--model", help="as birdbone's load takes it; without it nothing is run")
    parser.add_argument("--calibration", help="text to calibrate on")
    parser.add_argument("--judge", type=pair, action="append", default=[], metavar="NAME=TEXT")
    parser.add_argument("--peer", type=pair, action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", metavar="WORD", help="those with a word in them")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--drift", nargs="+", type=int, default=[0], metavar="STEPS")
    parser.add_argument("--windows", type=int, default=16, help="to calibrate on")
    parser.add_argument("--judge-windows", type=int, default=20, help="the first of each text")
    parser.add_argument("--length", type=int, default=512, help="tokens per window")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(words)
    asked.peer = dict(asked.peer)
    unknown = asked.peer.keys() - PEERS.keys()
    if unknown:
        parser.error(f"--peer {', '.join(sorted(unknown))}: the peers are {', '.join(PEERS)}")
    if asked.model and not (asked.work and asked.calibration and asked.judge):
        parser.error("--model needs --work, --calibration and --judge")
    if not (asked.model or asked.page):
        parser.error("nothing to do: give --model to measure or --page to write stored results")
    if asked.work is None and asked.results is None:
        parser.error("no results: give --work or --results")
    asked.results = asked.results or asked.work / "results.json"
    return asked


def main(words: list[str] | None = None) -> None:
    asked = arguments(words)
    torch.set_num_threads(asked.threads)
    store = Store(asked.results)
    if asked.model:
        for steps in asked.drift:
            Bench(asked, store, steps).measure()
    if asked.page:
        write_page(asked.page, store.conditions)


if __name__ == "__main__":
    main()
