"""heal: train the compressed model to recover from pruning, keeping every zero."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from ..checkpoints import Checkpoint, Coded
from ..contexts.flow import Changed, Healable, Partial
from ..contexts.ranks import check_windows
from ..contexts.steps import Step
from ..engine import in_thread, link, unfinished
from ..errors import SettingError
from ..models.blocks.linears import all_linears
from ..models.codecs.bitsandbytes import nf4_values
from ..models.codecs.peft_adapter import require_peft
from .healing.forecast import heal_forecast
from .healing.judgement import judge_healing, judged_parts
from .healing.methods import num_heldout, require_scales
from .healing.more_text import healing_text
from .healing.settings import ADAPTERS, HealSettings, chosen, warn_of_ignored, warn_of_ranks
from .healing.train import by_blocks, on_text


@link(HealSettings)
async def heal(ctx: Healable, settings: HealSettings) -> Changed:
    """Train the compressed model to reproduce the original one; weights that are zero stay zero.

    With tokens or time, more text to train on is sampled from the original model. The last healing
    windows of calibrate are held out of training. The whole model is evaluated on them and on
    text from elsewhere, before and after, as it is stored. Healing is kept if the loss fell on one
    of these texts and rose on none by more than two standard errors of the paired differences;
    otherwise the input model is returned unchanged and the history records it (kept: no). Settings
    that are not given have the default of the method, in brackets.
    """
    warn_of_ignored(settings)
    how = chosen(settings)
    warn_of_ranks(how)
    checkpoint, windows = ctx["checkpoint"], ctx["healing"]
    require_scales(checkpoint, settings.method)
    heldout = num_heldout(windows, settings.heldout_share)
    train = by_blocks if settings.method == "blocks" else partial(on_text, settings.method)
    text = await in_thread(healing_text, ctx, settings, heldout, unfinished())
    healed = await in_thread(train, ctx, text, how, heldout, settings.seed)
    light = checkpoint.evolve(healed.weights)
    texts = judged_parts(ctx, heldout)
    outcome = await in_thread(
        judge_healing, ctx["dense"], (checkpoint, light), texts, how.kl_weight
    )
    metrics = {
        **outcome.metrics,
        "steps": healed.steps,
        "trained_parameters": healed.trained_parameters,
        **text.metrics,
        **healed.curves,
    }
    return {"checkpoint": light if outcome.kept else checkpoint, "metrics": metrics}


@heal.on_every_rank
def _on_every_rank(settings: HealSettings) -> bool:
    """The windows of each step are divided."""
    return True


@heal.check
def _check(ctx: Partial, settings: HealSettings) -> None:
    """Too few windows, and quantised weights that training would overwrite."""
    check_windows(ctx, "healing")
    if "healing" in ctx:
        num_heldout(ctx["healing"], settings.heldout_share)
    method = settings.method
    if method in ADAPTERS:
        require_peft(method)
    if method == "qlora":
        nf4_values(torch.zeros(32, 64))  # fails if bitsandbytes cannot be used here
    checkpoint = ctx.get("checkpoint")
    if checkpoint is None:
        return
    _require_no_values(ctx.get("history", ()), checkpoint)
    if method not in ADAPTERS:
        return
    for linear in all_linears(checkpoint):
        if isinstance(checkpoint.refs[linear.tensor], Coded):
            raise SettingError(
                f"layer '{linear.name}' is quantised, and heal(method='{method}') "
                f"would store it as floats again; put heal before quantize, or use "
                f"method='scales', which trains its scales, or method='blocks', which trains what "
                f"is not quantised"
            )


def _require_no_values(history: Sequence[Step], checkpoint: Checkpoint) -> None:
    """Dequantised values that quantize stored look like any floats, and would be trained."""
    if all(step.metrics.get("shrinks", True) for step in history if step.link == "quantize"):
        return
    for linear in all_linears(checkpoint):
        if not isinstance(checkpoint.refs[linear.tensor], Coded):
            raise SettingError(
                f"layer '{linear.name}' holds dequantised values since quantize, and heal would "
                f"train them off their grid; put heal before quantize"
            )


heal.forecast(heal_forecast)
