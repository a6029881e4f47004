"""Tasks of lm-eval: looked up, and saved folders evaluated on them, in fresh processes.

The processes run `run_tasks.py` by path, so nothing here imports lm-eval. Each task's result is
handed on as soon as it is there.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...checkpoints import Checkpoint
from ...errors import DataError, MissingExtraError, SettingError
from ..blocks.announcing import Announce
from ..writing.folder import write_model
from ..writing.publishing import check_disk
from .fresh_process import run_alone

PROGRAM = Path(__file__).with_name("run_tasks.py")
LONGEST = 8192
"""The most tokens of one prompt, for models whose context is longer."""

_SHARD_BYTES = 5 * 10**9

Found = Mapping[str, Any]
Keep = Callable[[Found], None]


@dataclass(frozen=True)
class TaskChoice:
    """Which tasks, and how much of them.

    Attributes:
        names: of tasks, groups or tags of lm-eval or of ``include``, or paths of YAML files.
        include: folders with YAML tasks.
        limit: evaluate only the first samples of each task; None for all.
        seed: of everything that is drawn at random, such as few-shot examples.
    """

    names: tuple[str, ...]
    include: tuple[Path, ...] = ()
    limit: int | None = None
    seed: int = 1234

    def request(self) -> dict[str, Any]:
        """The part of a request that names the tasks."""
        return {
            "tasks": list(self.names),
            "include": [str(path.resolve()) for path in self.include],
            "cwd": str(Path.cwd()),
            "limit": self.limit,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Task:
    """A task that was found.

    Attributes:
        name: its name.
        num_samples: how many samples are evaluated.
        definition: hash of its definition and of these samples.
    """

    name: str
    num_samples: int
    definition: str


@dataclass(frozen=True)
class TaskRun:
    """How a model is run on tasks.

    Attributes:
        dtype: name of the dtype of loading and computing.
        device: ``cpu`` or an accelerator.
        batch_size: prompts per forward pass.
        max_length: the most tokens of a prompt; what is longer loses its beginning.
        trust_remote_code: allow Python code of the folder to run.
    """

    dtype: str
    device: str
    batch_size: int
    max_length: int
    trust_remote_code: bool = False


def require_lm_eval() -> None:
    """Check that lm-eval is installed.

    Raises:
        MissingExtraError: it is not; the message names the extra.
    """
    if find_spec("lm_eval") is None:
        raise MissingExtraError(
            "tasks are evaluated by lm-eval, which is not installed; "
            "run pip install 'birdbone[eval]'"
        )


def lm_eval_version() -> str:
    """The installed version of lm-eval, or ``not installed``."""
    try:
        return metadata.version("lm_eval")
    except metadata.PackageNotFoundError:
        return "not installed"


async def look_up_tasks(choice: TaskChoice, announce: Announce) -> tuple[list[Task], str]:
    """Find the tasks and read their data; also returns the version of lm-eval.

    Raises:
        MissingExtraError: lm-eval is not installed.
        SettingError: a task is unknown or not valid.
        DataError: the data of a task cannot be read.
    """
    require_lm_eval()
    announce("tasks looked up", 0, None)
    request = {**choice.request(), "folder": str(Path.cwd()), "parts": []}
    found = await run_alone(PROGRAM, request, announce, opener="lm-eval", network=True)
    _check_usable(found)
    return [_task(each) for each in found["tasks"]], str(found["lm_eval"])


def _task(found: Mapping[str, Any]) -> Task:
    return Task(found["task"], found["num_samples"], found["definition"])


def _check_usable(found: Mapping[str, Any]) -> None:
    fault = found.get("fault")
    if fault is None:
        return
    raise (DataError if fault.startswith("the data of ") else SettingError)(fault)


async def evaluate_folder(
    folder: Path,
    choice: TaskChoice,
    done: Collection[str],
    run: TaskRun,
    keep: Keep,
    announce: Announce,
) -> None:
    """Evaluate a Hugging Face folder on those of the tasks that are not done.

    Args:
        done: names of the tasks to leave out.
        keep: receives each task's result as soon as it is there.

    Raises:
        ProofError: the folder cannot be opened, or lm-eval fails on it.
    """
    request = {"folder": str(folder)}
    await evaluate_with(
        PROGRAM, request, choice, done, run, keep, announce, opener="lm-eval in transformers"
    )


async def evaluate_checkpoint(
    checkpoint: Checkpoint,
    choice: TaskChoice,
    done: Collection[str],
    run: TaskRun,
    keep: Keep,
    announce: Announce,
) -> None:
    """Evaluate a model in memory: write it to a temporary folder, and evaluate that.

    Raises:
        ProofError: see `evaluate_folder`.
        ResourceError: the disk has no room for it.
    """
    with tempfile.TemporaryDirectory() as place:
        check_disk(place, checkpoint.num_bytes)
        write = partial(write_model, checkpoint, Path(place), max_shard_bytes=_SHARD_BYTES)
        await asyncio.to_thread(write)
        await evaluate_folder(Path(place), choice, done, run, keep, announce)


async def evaluate_with(
    program: Path,
    request: Mapping[str, Any],
    choice: TaskChoice,
    done: Collection[str],
    run: TaskRun,
    keep: Keep,
    announce: Announce,
    *,
    opener: str,
) -> None:
    """The same by the program of any runtime; ``request`` names the model's files."""
    with tempfile.TemporaryDirectory() as aside:
        place = Path(aside)

        def collect() -> None:
            for path in sorted(place.glob("*.json")):
                keep(json.loads(path.read_text(encoding="utf-8")))
                path.unlink()

        def follow(label: str, finished: int, total: int | None) -> None:
            collect()
            announce(label, finished, total)

        whole = {
            **choice.request(),
            **request,
            **vars(run),
            "model": True,
            "done": list(done),
            "place": aside,
        }
        follow("model evaluated on tasks", 0, None)
        try:
            found = await run_alone(program, whole, follow, opener=opener, network=True)
        finally:
            collect()
        _check_usable(found)
