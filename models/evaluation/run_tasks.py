"""Standalone script: evaluate a saved folder on tasks of lm-eval, with plain transformers.

`standalone` runs it in a fresh, isolated interpreter. It imports nothing of this package, so the
results are those of lm-eval's own Python interface on what any user of the folder gets.

A request names the tasks, folders with YAML tasks (``include``), the folder that the user works in
(``cwd``, from which tasks read relative paths), limit and seed. Without ``model`` it only looks the
tasks up. With it, each task's result goes to a file of the folder ``place`` as soon as it is there,
and a line ``@ done total label`` to stdout.

lm-eval's own index of its 14,000 task files takes a minute to build. Here the files are searched
for the names of the tasks first, and only the folders of those are indexed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import platform
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
import torch

_NAMED = r"^\s*(?:-\s*)?(?:task|group|tag)\s*:\s*[\"']?([\w.\-]+)[\"']?\s*$"
_LISTED = r"^\s*-\s*[\"']?([\w.\-]+)[\"']?\s*$"  # a tag may be one of a list
_YAML = (".yaml", ".yml")
_CLOSE = 1e-6  # relative: what our mean of the samples may differ from lm-eval's score

# How a score follows from the samples, by lm-eval's aggregation: see `contexts.task_scores`.
_SCALES = {
    "mean": "mean",
    "perplexity": "perplexity",
    "weighted_perplexity": "perplexity",
    "bits_per_byte": "bits",
}


class _Unusable(Exception):
    """A task that cannot be used, with the reason in words for the user."""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Look up the tasks of a request, or evaluate its folder on them."""
    version = metadata.version("transformers")
    return respond(request, lambda: _transformers(request), transformers=version)


def respond(
    request: dict[str, Any], open_model: Callable[[], Any], **runtime: str
) -> dict[str, Any]:
    """The same for any runtime: ``open_model`` returns the model as lm-eval's LM.

    Args:
        runtime: name and version of what runs the model.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    os.chdir(request["cwd"])
    try:
        tasks = _tasks(request)
        if not request.get("model"):
            return {"tasks": [_described(task, request) for task in tasks], **_versions()}
    except _Unusable as fault:
        return {"fault": str(fault)}
    model = open_model()
    wanted = [task for task in tasks if task.task_name not in request["done"]]
    for done, task in enumerate(wanted, 1):
        found = {**_evaluated(model, task, request), **_versions(), "environment": runtime}
        found["environment"] |= _environment(request)
        _write(Path(request["place"]) / f"{done}.json", found)
        sys.stdout.write(f"@ {done} {len(wanted)} tasks evaluated\n")
        sys.stdout.flush()
    return {"done": len(wanted)}


def _write(path: Path, found: dict[str, Any]) -> None:
    """Write a result in one step, so that a reader never sees half of it."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(found), encoding="utf-8")
    aside.replace(path)


def _transformers(request: dict[str, Any]) -> Any:
    """The folder opened by plain transformers, as lm-eval's model."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer  # not needed to look tasks up

    remote = request["trust_remote_code"]
    model = AutoModelForCausalLM.from_pretrained(
        request["folder"],
        dtype=getattr(torch, request["dtype"]),
        device_map=request["device"],
        trust_remote_code=remote,
        local_files_only=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(
        request["folder"], trust_remote_code=remote, local_files_only=True
    )
    return HFLM(
        pretrained=model.eval(),
        tokenizer=tokenizer,
        batch_size=request["batch_size"],
        max_length=request["max_length"],
    )


def _tasks(request: dict[str, Any]) -> list[Any]:
    """The tasks by name, each once; groups and tags are replaced by what they hold."""
    include = [Path(each).resolve() for each in request["include"]]
    files = [name for name in request["tasks"] if name.endswith(_YAML)]
    for path in [*include, *map(Path, files)]:
        if not path.exists():
            raise _Unusable(f"'{path}' does not exist; give a folder of YAML tasks or a file")
    manager = _manager([name for name in request["tasks"] if name not in files], include)
    found: dict[str, Any] = {}
    for name in request["tasks"]:
        found |= _loaded(manager, name)
    for task in found.values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        if getattr(task, "UNSAFE_CODE", False):
            raise _Unusable(f"task '{task.task_name}' runs code that models write; not supported")
        if getattr(task, "MULTIMODAL", False):
            raise _Unusable(f"task '{task.task_name}' needs pictures; models here read text only")
    return list(found.values())


def _manager(names: Sequence[str], include: Sequence[Path]) -> Any:
    """lm-eval's index of the folders that hold these tasks.

    Raises:
        _Unusable: a name is unknown.
    """
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=list(include), include_defaults=False)
    missing = [name for name in names if name not in own.all_tasks]
    if not missing:
        return own
    folders = _folders(missing)
    paths = [*sorted(folders), *include]
    found = TaskManager(include_path=paths, include_defaults=False)
    if not all(name in found.all_tasks for name in names):
        found = TaskManager(include_path=list(include) or None)
    for name in names:
        if name not in found.all_tasks:
            raise _Unusable(f"unknown task '{name}'; {_hint(name, [*own.all_tasks, *_known()])}")
    return found


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    alike = f"did you mean {', '.join(near)}? " if near else ""
    return f"{alike}Tasks of lm-eval are named in its documentation, own ones need --include"


def _task_files() -> Iterator[tuple[Path, str]]:
    """Every YAML file of lm-eval's own tasks, with its text."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    for path in root.rglob("*.yaml"):
        yield path, path.read_text(encoding="utf-8", errors="replace")


def _folders(names: Sequence[str]) -> set[Path]:
    """The folders of lm-eval's tasks in which a name is that of a task, group or tag."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    pattern = re.compile(f"{_NAMED}|{_LISTED}", re.MULTILINE)
    return {
        root / path.relative_to(root).parts[0]
        for path, text in _task_files()
        if any(set(pair) & set(names) for pair in pattern.findall(text))
    }


def _known() -> list[str]:
    pattern = re.compile(_NAMED, re.MULTILINE)
    return [name for _, text in _task_files() for name in pattern.findall(text)]


def _loaded(manager: Any, name: str) -> dict[str, Any]:
    """The tasks of a name with their data.

    Raises:
        _Unusable: the data cannot be read, or the task is not valid.
    """
    try:
        tasks: dict[str, Any] = manager.load([name])["tasks"]
    except (ConnectionError, OSError) as error:
        raise _Unusable(
            f"the data of task '{name}' cannot be read: {_first_line(error)}; with a network, run "
            f"again without HF_HUB_OFFLINE; without one, fetch the dataset before, or give a task "
            f"with local data (--include)"
        ) from error
    except Exception as error:  # a task file may be wrong in any way
        raise _Unusable(
            f"task '{name}' cannot be loaded: {type(error).__name__}: {_first_line(error)}"
        ) from error
    return tasks


def _first_line(error: Exception) -> str:
    return str(error).strip("\"'").splitlines()[0] if str(error) else type(error).__name__


def _described(task: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Name, number of samples, and a hash of the task's definition and of the samples used."""
    documents = list(islice(task.eval_docs, request["limit"]))
    if not documents:
        raise _Unusable(f"task '{task.task_name}' has no samples")
    settings = {name: value for name, value in task.dump_config().items() if name != "metadata"}
    text = json.dumps([settings, documents], sort_keys=True, default=_without_address)
    return {
        "task": task.task_name,
        "num_samples": len(documents),
        "definition": hashlib.sha256(text.encode()).hexdigest(),
    }


def _without_address(value: Any) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@torch.inference_mode()
def _evaluated(model: Any, task: Any, request: dict[str, Any]) -> dict[str, Any]:
    """One task's scores with the value of every sample."""
    from lm_eval import evaluate

    seed = request["seed"]
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    task.set_fewshot_seed(seed=seed)
    name = task.task_name
    found = evaluate(
        lm=model,
        task_dict={"tasks": {name: task}, "groups": {}, "group_map": {}},
        limit=request["limit"],
        bootstrap_iters=0,  # errors follow from the samples
        log_samples=True,
    )
    samples = found["samples"][name]
    return {
        **_described(task, request),
        "num_fewshot": int(task.get_config("num_fewshot")),
        "samples": [each["doc_hash"] for each in samples if each["filter"] == samples[0]["filter"]],
        "metrics": list(_metrics(task, samples, found["results"][name])),
    }


def _metrics(
    task: Any, samples: Sequence[dict[str, Any]], scored: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    aggregations, better = task.aggregation(), task.higher_is_better()
    for key, score in scored.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(score, int | float):
            continue
        kind = getattr(aggregations.get(metric), "__name__", "")
        rows = [each[metric] for each in samples if each["filter"] == chosen and metric in each]
        scale, pairs = _pairs(_SCALES.get(kind), rows, float(score))
        yield {
            "metric": metric if chosen == "none" else f"{metric} ({chosen})",
            "higher_is_better": bool(better.get(metric, True)),
            "score": float(score),
            "scale": scale,
            "values": [value for value, _ in pairs],
            "weights": [weight for _, weight in pairs],
        }


def _pairs(
    scale: str | None, rows: Sequence[Any], score: float
) -> tuple[str, list[tuple[float, float]]]:
    """Value and weight of every sample; none, and "other", if the score does not follow."""
    pairs = []
    for row in rows:
        value, weight = row if isinstance(row, list | tuple) and len(row) == 2 else (row, 1.0)
        if scale is None or not isinstance(value, int | float | numpy.number | numpy.bool_):
            return "other", []
        pairs.append((float(value) * (1 if scale == "mean" else -1), float(weight)))
    if not pairs:
        return "other", []
    mean = sum(value for value, _ in pairs) / sum(weight for _, weight in pairs)
    forms = {"mean": mean, "perplexity": numpy.exp(mean), "bits": mean / numpy.log(2)}
    if abs(forms[str(scale)] - score) > _CLOSE * max(abs(score), 1.0):
        return "other", []
    return str(scale), pairs


def _versions() -> dict[str, str]:
    return {"lm_eval": metadata.version("lm_eval")}


def _environment(request: dict[str, Any]) -> dict[str, str]:
    return {
        "device": request["device"],
        "dtype": request["dtype"],
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
