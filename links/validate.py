"""validate: the current model compared with the original on one or two texts, with a gate."""

from __future__ import annotations

import warnings
from typing import Annotated

from pydantic import Field

from ..contexts.flow import Validatable, Validated
from ..contexts.forecast import Forecast
from ..contexts.verdict import judged_texts
from ..engine import BatchSize, Settings, in_thread, link
from ..errors import GateError
from ..models.planning.effort import num_blocks
from ..models.planning.memory import judging_bytes
from .validating.judge import judge
from .validating.metrics import metrics, outlined_verdict


class ValidateSettings(Settings):
    """The settings of validate."""

    max_rise: Annotated[float, Field(gt=0)] | None = None
    """Fail if perplexity rose by more than this fraction over the original model, on held-out text
    or on text from elsewhere. A rise within two standard errors of the limit passes, since the text
    cannot tell them apart; with a single window there is no standard error, and the rise itself
    must not exceed the limit."""

    batch_size: BatchSize = 4
    """Windows per forward pass; halved where the device has no memory left."""


@link(ValidateSettings)
async def validate(ctx: Validatable, settings: ValidateSettings) -> Validated:
    """Measure perplexity, KL divergence and agreement with the original on two texts.

    They are held-out text of the calibration source and text from elsewhere, which is not used for
    calibration or healing; the greater rise decides. A context without text from elsewhere is
    judged on held-out text alone, and the metrics report how many texts there were.

    Raises:
        GateError: perplexity rose by more than max_rise.
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
            f"dense on {fault.text}, more than max_rise={max_rise:.2%} allows; "
            f"prune less, keep more bits, or heal longer"
        )
    if verdict.remark is not None:
        # Without figures: Python shows equal warnings once, and waves validate often.
        warnings.warn(
            "validate: the rises on held-out text and on text from elsewhere differ by more than "
            "twice the smaller one; expect the greater one on other text, or calibrate on broader "
            "text",
            stacklevel=2,
        )
    return {"verdict": verdict, "reference": reference, "metrics": metrics(verdict)}


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
    )
