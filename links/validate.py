"""validate: the current model compared with the original on one or two texts, with a gate."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

from pydantic import Field

from ..contexts.flow import Partial, Validatable, Validated
from ..contexts.forecast import Forecast
from ..contexts.ranks import check_windows
from ..contexts.task_scores import below
from ..contexts.verdict import judged_texts
from ..engine import BatchSize, Settings, in_thread, link
from ..errors import GateError, SettingError
from ..models.evaluation.task_evaluation import require_lm_eval
from ..models.planning.effort import num_blocks
from ..models.planning.memory import judging_bytes
from .validating.judge import judge
from .validating.metrics import metrics, outlined_verdict
from .validating.tasks import judge_tasks, task_choice, task_files, try_tasks

_ADVICE = "; prune less, keep more bits, or heal longer"


class ValidateSettings(Settings):
    """The settings of validate."""

    max_rise: Annotated[float, Field(gt=0)] | None = None
    """Fail if perplexity rose by more than this fraction over the original model, on held-out text
    or on text from elsewhere. A rise within two standard errors of the limit passes, since the text
    cannot tell them apart; with a single window there is no standard error, and the rise itself
    must not exceed the limit."""

    batch_size: BatchSize = 4
    """Windows per forward pass; halved where the device has no memory left. Also prompts of tasks,
    which are not halved."""

    tasks: tuple[str, ...] = ()
    """Tasks of lm-eval to evaluate both models on: names of tasks, groups or tags, or paths of YAML
    files. Needs the extra birdbone[eval]."""

    limit: Annotated[int, Field(ge=1)] | None = None
    """Evaluate only the first samples of each task; None for all."""

    min_recovery: Annotated[float, Field(gt=0)] | None = None
    """Fail if less than this fraction of the original's score is left in any metric of a task (the
    inverse for perplexities). A recovery within two standard errors of the limit passes."""


@link(ValidateSettings)
async def validate(ctx: Validatable, settings: ValidateSettings) -> Validated:
    """Measure perplexity, KL divergence and agreement with the original on two texts.

    They are held-out text of the calibration source and text from elsewhere, which is not used for
    calibration or healing; the greater rise decides. A context without text from elsewhere is
    judged on held-out text alone, and the metrics report how many texts there were.

    With tasks, each model is written to a temporary folder and evaluated by lm-eval in a fresh
    process, in transformers; the original's results are used again by a later validate.

    Raises:
        GateError: perplexity rose by more than max_rise, or a task's recovery is below
            min_recovery.
        SettingError, DataError: a task is unknown, or its data cannot be read.
    """
    max_rise = settings.max_rise
    verdict, reference = await in_thread(
        judge,
        (ctx["dense"], ctx["checkpoint"]),
        judged_texts(ctx),
        ctx.get("reference"),
        settings.batch_size,
    )
    fault = None if max_rise is None else verdict.broken(max_rise)
    if max_rise is not None and fault is not None:
        raise GateError(
            f"perplexity rose by {fault.rise:.2%} (standard error {fault.rise_error:.2%}) over "
            f"dense on {fault.text}, more than "
            f"max_rise={max_rise:.2%} allows{_ADVICE}"
        )
    if verdict.remark is not None:
        # Without figures: Python shows equal warnings once, and waves validate often.
        warnings.warn(
            "validate: the rises on held-out text and on text from elsewhere differ by more than "
            "twice the smaller one; expect the greater one on other text, or calibrate on broader "
            "text",
            stacklevel=2,
        )
    if settings.tasks:
        choice = task_choice(settings.tasks, settings.limit)
        models = (ctx["dense"], ctx["checkpoint"])
        verdict, reference = await judge_tasks(
            models, choice, verdict, reference, settings.batch_size
        )
    least = settings.min_recovery
    lost = None if least is None else below(verdict.tasks, least, advice=_ADVICE)
    if lost is not None:
        raise GateError(lost)
    return {"verdict": verdict, "reference": reference, "metrics": metrics(verdict)}


@validate.on_every_rank
def _on_every_rank(settings: ValidateSettings) -> bool:
    """The windows are divided; lm-eval is started by one process."""
    return not settings.tasks


@validate.check
def _check(ctx: Partial, settings: ValidateSettings) -> None:
    """Tasks need lm-eval, and settings of tasks need tasks; ranks need a window each."""
    if settings.tasks:
        require_lm_eval()
        return
    check_windows(ctx, "heldout", "elsewhere")
    for name in ("limit", "min_recovery"):
        value = getattr(settings, name)
        if value is not None:
            raise SettingError(
                f"validate({name}={value}) is of tasks, and none are given; give tasks, or leave "
                f"it out"
            )


@validate.trial
def _trial(ctx: Validatable, settings: ValidateSettings) -> None:
    """Tasks that are unknown, or whose data cannot be read."""
    if settings.tasks:
        try_tasks(task_choice(settings.tasks, settings.limit))


@validate.reads
def _reads(settings: ValidateSettings) -> Any:
    """The files of tasks that are given as YAML files."""
    return task_files(settings.tasks) if settings.tasks else None


@validate.forecast
def _forecast(ctx: Validatable, settings: ValidateSettings) -> Forecast:
    """Both models through their blocks to logits; the original's blocks only if not run before."""
    light, texts = ctx["checkpoint"], judged_texts(ctx)
    num_windows = sum(windows.num_windows for windows in texts.values())
    models = 1 if "reference" in ctx else 2
    return Forecast(
        adds=outlined_verdict(light, texts),
        block_passes=models * num_windows * num_blocks(light),
        head_passes=2 * num_windows + 2 * settings.batch_size,
        memory_bytes=judging_bytes(light, texts.values(), settings.batch_size),
        starts=models if settings.tasks else 0,
        passing_disk_bytes=light.num_bytes if settings.tasks else 0,
        notes=("the time of tasks is not estimated",) if settings.tasks else (),
    )
