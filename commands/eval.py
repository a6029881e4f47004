"""``birdbone eval MODEL...``: saved models and their originals on tasks of lm-eval."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import GateError, SettingError
from .eval_models import model_pair
from .options import AsJson, Device, Quiet

if TYPE_CHECKING:
    from ..contexts.task_scores import Recovery, TaskScores
    from ..formats.task_models import TaskModel
    from ..journal.evaluations import KeptEvaluations
    from ..models.evaluation.task_evaluation import TaskChoice

_MODELS = "Hugging Face folders, .gguf files, or folders with one .gguf file."
_TASKS = "Tasks, groups or tags of lm-eval, or YAML files, separated by commas."
_SOURCE = (
    "The original to compare with: hub id, folder, .gguf file, or package:NAME/FILE.gguf; by "
    "default the one that the model's birdbone.json names."
)
_INCLUDE = "Folder with YAML tasks of your own; repeatable."
_LIMIT = "Evaluate only the first samples of each task; by default all."
_SEED = "Seed of few-shot examples and of all else that is drawn at random."
_BATCH = "Prompts per forward pass, in transformers."
_MIN = "Exit with code 1 if a metric's recovery is measurably below this fraction."
_RUN = "Keep each task's result in this run folder, and reuse what it holds."
_OUT = "Also write the JSON document to this file."
_TRUST = "Allow Python code in a model folder to run."


def eval_command(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help=_MODELS)],
    tasks: Annotated[str, typer.Option(metavar="NAMES", help=_TASKS)],
    source: Annotated[str | None, typer.Option(metavar="MODEL", help=_SOURCE)] = None,
    include: Annotated[list[Path] | None, typer.Option(metavar="DIR", help=_INCLUDE)] = None,
    limit: Annotated[int | None, typer.Option(min=1, help=_LIMIT)] = None,
    seed: Annotated[int, typer.Option(help=_SEED)] = 1234,
    batch_size: Annotated[int, typer.Option(min=1, help=_BATCH)] = 4,
    min_recovery: Annotated[float | None, typer.Option(min=0.0, help=_MIN)] = None,
    run_folder: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help=_RUN, show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help=_OUT)] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    trust: Annotated[bool, typer.Option("--trust-remote-code", help=_TRUST)] = False,
    device: Device = None,
) -> None:
    """Evaluate models and their originals on tasks of lm-eval: what is left of each score.

    Needs the extra birdbone[eval]. Every model runs in a fresh process: Hugging Face folders in
    transformers, in float32 on a CPU and bfloat16 elsewhere; GGUF files in llama.cpp (the extra
    birdbone[llama]); originals in transformers. All get the same samples and the same examples.
    Prompts have at most 8,192 tokens. Tasks of lm-eval whose data is on the hub need a network the
    first time.
    """
    from ..checkpoints.placement import on_device
    from ..journal import RunFolder
    from ..journal.evaluations import KeptEvaluations
    from ..models.evaluation.task_evaluation import TaskChoice, require_lm_eval
    from ..models.writing.output_path import check_writable_file, write_text
    from ..reports.terminal import quiet_libraries, say, show, warnings_as_notes

    def tell(line: str) -> None:
        if not quiet:
            say("birdbone", line)

    require_lm_eval()
    choice = TaskChoice(_names(tasks), tuple(include or ()), limit, seed)
    with ExitStack() as stack:
        for each in (warnings_as_notes(), quiet_libraries(), on_device(device)):
            stack.enter_context(each)
        if out is not None:
            check_writable_file(out)
        pairs = [
            model_pair(name, source, batch_size=batch_size, trust_remote_code=trust)
            for name in models
        ]
        store = (
            None if run_folder is None else stack.enter_context(RunFolder(run_folder, tell=tell))
        )
        kept = KeptEvaluations(store)
        compared = asyncio.run(_compare(pairs, choice, kept, tell))
    document = _document(compared, choice)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if out is not None:
        write_text(out, text + "\n")
    typer.echo(text) if as_json else show(_report(compared, choice))
    if min_recovery is not None:
        _check(compared, min_recovery)


@dataclass(frozen=True)
class _Compared:
    """One model beside its original; ``dense`` is empty if there is none."""

    name: str
    light: Sequence[TaskScores]
    dense: Sequence[TaskScores]

    @property
    def recoveries(self) -> tuple[Recovery, ...]:
        from ..contexts.task_scores import recoveries

        return recoveries(self.dense, self.light)


def _names(tasks: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    if not names:
        raise SettingError(f"--tasks '{tasks}' names no task; give names separated by commas")
    return names


async def _compare(
    pairs: Sequence[tuple[TaskModel, TaskModel]],
    choice: TaskChoice,
    kept: KeptEvaluations,
    tell: Callable[[str], None],
) -> list[_Compared]:
    """Look the tasks up, then evaluate every model; an original of several models once."""
    from ..contexts.task_scores import task_scores
    from ..formats.task_models import evaluate_model
    from ..models.evaluation.task_evaluation import look_up_tasks

    tasks, version = await look_up_tasks(choice, lambda *_: None)
    words = ", ".join(f"{task.name} ({task.num_samples:,} samples)" for task in tasks)
    tell(f"tasks: {words}; lm-eval {version}")
    found = []
    for light, dense in pairs:
        sides = []
        for side, model in (("original", dense), ("light", light)):

            def announce(
                label: str, done: int, total: int | None, words: str = f"{side} {model.name}"
            ) -> None:
                if label == "tasks evaluated":
                    tell(f"{words}: {done} of {total} tasks evaluated")

            results = await evaluate_model(model, choice, tasks, version, kept, announce)
            sides.append([task_scores(each) for each in results])
        found.append(_Compared(light.name, sides[1], sides[0]))
    return found


def _document(compared: Sequence[_Compared], choice: TaskChoice) -> dict[str, Any]:
    from ..contexts.task_scores import task_document

    return {
        "tasks": list(choice.names),
        "limit": choice.limit,
        "seed": choice.seed,
        "models": [
            {
                "model": each.name,
                "recovery": [found.as_dict() for found in each.recoveries],
                "original": [task_document(scores) for scores in each.dense],
                "light": [task_document(scores) for scores in each.light],
            }
            for each in compared
        ],
    }


def _report(compared: Sequence[_Compared], choice: TaskChoice) -> Any:
    from rich.console import Group
    from rich.text import Text

    from ..reports.task_table import REMARK, conditions_of, conditions_report, recovery_table

    parts: list[Any] = []
    for each in compared:
        sides = {"original": each.dense, each.name: each.light}
        made = {
            name: conditions_of(scores, limit=choice.limit, seed=choice.seed)
            for name, scores in sides.items()
        }
        title = [Text(each.name, style="bold", overflow="fold")] if len(compared) > 1 else []
        parts += [*title, recovery_table(each.recoveries), conditions_report(made)]
    return Group(*parts, Text(REMARK))


def _check(compared: Sequence[_Compared], bound: float) -> None:
    """Raise for the first model with a metric that does not hold."""
    from ..contexts.task_scores import below

    for each in compared:
        fault = below(each.recoveries, bound)
        if fault is not None:
            raise GateError(f"'{each.name}': {fault}")
