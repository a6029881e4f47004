"""Tasks of lm-eval in the link validate: both models, in fresh processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ...checkpoints import Checkpoint
from ...checkpoints.durable import file_hash
from ...checkpoints.user_paths import user_path
from ...contexts.task_scores import TaskScores, recoveries, task_scores
from ...contexts.verdict import Reference, Verdict
from ...engine import announce, unfinished
from ...models.blocks.config import context_length, has_code
from ...models.blocks.device import default_device, judged_dtype
from ...models.evaluation.task_evaluation import (
    LONGEST,
    TaskChoice,
    TaskRun,
    evaluate_checkpoint,
    lm_eval_version,
    look_up_tasks,
)

_DATA = (".yaml", ".yml", ".py", ".json", ".jsonl", ".csv", ".parquet", ".txt")


def task_choice(names: tuple[str, ...], limit: int | None) -> TaskChoice:
    """The tasks of the settings, with seeds as in ``birdbone eval``."""
    return TaskChoice(names, limit=limit)


def task_files(names: tuple[str, ...]) -> Mapping[str, str]:
    """The version of lm-eval, and hashes of YAML files with the code and data beside them."""
    places = {user_path(name).parent for name in names if name.endswith((".yaml", ".yml"))}
    paths = [path for place in places for path in place.glob("*") if path.suffix in _DATA]
    found = {str(path): file_hash(path) for path in sorted(paths) if path.is_file()}
    return {"lm-eval": lm_eval_version(), **found}


def try_tasks(choice: TaskChoice) -> None:
    """Look the tasks up and read their data.

    Raises:
        SettingError, DataError: see `look_up_tasks`.
    """
    with ThreadPoolExecutor(1) as pool:  # the caller may be inside an event loop
        pool.submit(asyncio.run, look_up_tasks(choice, lambda *_: None)).result()


async def judge_tasks(
    models: tuple[Checkpoint, Checkpoint],
    choice: TaskChoice,
    verdict: Verdict,
    reference: Reference,
    batch_size: int,
) -> tuple[Verdict, Reference]:
    """The verdict and the reference, with the scores of (dense, light) on the tasks.

    Finished tasks of an interrupted run are not evaluated again.
    """
    dense, light = models
    run = _run(light, dense, batch_size)
    key = _key(choice, run)
    finished = _Finished()
    known = reference.tasks.get(key)
    if known is None:
        known = await finished.scores("dense", dense, choice, run)
        reference = replace(reference, tasks={**reference.tasks, key: known})
    reached = known
    if light.id != dense.id:
        reached = await finished.scores("light", light, choice, run)
    return replace(verdict, tasks=recoveries(known, reached)), reference


def _run(light: Checkpoint, dense: Checkpoint, batch_size: int) -> TaskRun:
    device = default_device()
    lengths = (context_length(each) for each in (light, dense))
    return TaskRun(
        dtype=str(judged_dtype(light, device)).removeprefix("torch."),
        device=str(device),
        batch_size=batch_size,
        max_length=min([LONGEST, *(each for each in lengths if each is not None)]),
        trust_remote_code=has_code(light) or has_code(dense),
    )


def _key(choice: TaskChoice, run: TaskRun) -> str:
    asked = [choice.request(), vars(run), task_files(choice.names)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class _Finished:
    """Results of tasks, kept as the running link's work in progress."""

    def __init__(self) -> None:
        self._place = unfinished()
        kept = self._place.load()
        self._facts: dict[str, Any] = {} if kept is None else dict(kept[1])

    async def scores(
        self, side: str, checkpoint: Checkpoint, choice: TaskChoice, run: TaskRun
    ) -> tuple[TaskScores, ...]:
        """The scores of a model on all tasks."""
        found: dict[str, Any] = self._facts.setdefault(side, {})

        def keep(result: Mapping[str, Any]) -> None:
            found[result["task"]] = dict(result)
            self._place.save({}, self._facts)

        await evaluate_checkpoint(checkpoint, choice, tuple(found), run, keep, announce)
        return tuple(task_scores(each) for each in found.values())
