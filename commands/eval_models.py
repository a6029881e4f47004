"""A saved model and its original, as ``birdbone eval`` runs them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, SettingError

if TYPE_CHECKING:
    from ..formats.task_models import TaskModel
    from ..models.evaluation.task_evaluation import TaskRun


def model_pair(
    name: str, source: str | None, *, batch_size: int, trust_remote_code: bool = False
) -> tuple[TaskModel, TaskModel]:
    """A model and its original, with the same room for prompts.

    Args:
        source: the original; None for the one that the model's record names.

    Raises:
        SettingError: no original is known.
        ModelError: one of the two is not found, or the original is not the recorded one.
        MissingExtraError: the runtime of the model is not installed.
    """
    from ..formats.task_models import TaskModel, check_runtime
    from ..models.reading.opening import positions_of
    from ..models.reading.sources import find_model

    found = find_model(name)
    facts = _facts(name)
    original = source or _original_name(name, facts)
    run = _run(batch_size, trust_remote_code)
    light = TaskModel(name, found, run)
    check_runtime(light)
    dense = _original(original, facts, light, checked=source is None)
    lengths = [
        positions_of(each.source, trust_remote_code=trust_remote_code) for each in (light, dense)
    ]
    length = min([run.max_length, *(each for each in lengths if each is not None)])
    run = replace(run, max_length=length)
    return replace(light, run=run), replace(dense, run=run)


def _run(batch_size: int, trust: bool) -> TaskRun:
    from ..models.blocks.device import default_device
    from ..models.evaluation.task_evaluation import LONGEST, TaskRun

    device = default_device()
    dtype = "float32" if device.type == "cpu" else "bfloat16"
    return TaskRun(dtype, str(device), batch_size, LONGEST, trust)


def _facts(name: str) -> Mapping[str, Any]:
    """The record of a saved model; empty if there is none that can be read."""
    from ..checkpoints.user_paths import user_path
    from ..models.writing.publishing import PROVENANCE, path_of

    try:
        found = json.loads(path_of(user_path(name), PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _original_name(name: str, facts: Mapping[str, Any]) -> str:
    from ..models.evaluation.original import named_original

    found = named_original(facts)
    if found is None:
        raise SettingError(
            f"'{name}' has no birdbone.json that names the model it was made from; "
            f"give --source MODEL"
        )
    return found


def _original(name: str, facts: Mapping[str, Any], light: TaskModel, *, checked: bool) -> TaskModel:
    """The original; from the record alone, only if it is the very model that was loaded."""
    from ..formats.task_models import TaskModel
    from ..models.evaluation.original import open_original
    from ..models.reading.sources import find_model

    trust = light.run.trust_remote_code
    try:
        source = find_model(name)
    except ModelError as error:
        if not checked:
            raise
        raise ModelError(
            f"'{light.name}' was made from '{name}', which is not found here ({error}); "
            f"give --source MODEL"
        ) from error
    checkpoint = open_original(facts, name, trust_remote_code=trust)
    if checked and checkpoint.id != facts.get("dense"):
        raise ModelError(
            f"'{name}' is not the model that '{light.name}' was made from: its id is "
            f"{checkpoint.id[:12]}, recorded {str(facts.get('dense'))[:12]}; give --source MODEL"
        )
    return TaskModel(name, source, light.run, None if source.gguf is None else checkpoint)
