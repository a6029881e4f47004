"""heal: train what pruning left toward what the dense model gives, without waking a zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field

from ..checkpoints import Checkpoint, Coded
from ..contexts.flow import Changed, Healable
from ..contexts.steps import Step
from ..engine import announce, in_thread, link
from ..errors import SettingError
from ..models.blocks.linears import all_linears
from ..models.codecs.bitsandbytes import nf4_values
from ..models.evaluation.scoring import standings
from ..models.training.blockwise import Target
from ..texts import Windows
from .healing.forecast import heal_forecast
from .healing.methods import Method, Precision, chosen, num_heldout, warn_of_unused
from .healing.train import by_blocks, need_bytes, on_text


@link
async def heal(
    ctx: Healable,
    *,
    method: Method = "blocks",
    epochs: Annotated[int, Field(ge=1)] | None = None,
    learning_rate: Annotated[float, Field(gt=0)] | None = None,
    batch_size: Annotated[int, Field(ge=1)] | None = None,
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None,
    precision: Precision | None = None,
    gradient_checkpointing: bool | None = None,
    target: Target | None = None,
    kl_weight: Annotated[float, Field(ge=0, le=1)] | None = None,
    rank: Annotated[int, Field(ge=1)] | None = None,
    alpha: Annotated[float, Field(gt=0)] | None = None,
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    seed: int = 0,
) -> Changed:
    """Train what is left of the model toward the dense one; every zero of a weight stays zero.

    The last healing windows are kept out of training and judge the whole model, before and after,
    as it is stored. Where it is not better after, it is handed on as it came, and the history says
    so (kept: no). What is not given is as suits the method, written in brackets.

    Settings:
        method: blocks, each block by itself toward what the dense one gives there (2402.12419);
            full, all weights at once toward what the dense model says; lora, low-rank adapters
            toward the same, masked as in PERP (2312.15230), merged at the end; qlora, those on a
            base that is held in 4 bits meanwhile (2305.14314), merged into the weights as stored.
        epochs: passes over the healing windows, the best of which is kept [blocks 2, lora 2,
            qlora 2, full 2].
        learning_rate: at its peak, after a warm-up and before a cosine; of blocks the highest
            that is tried, down to a sixteenth where windows kept out say so. Lower it for models
            much wider than 576, where those of blocks and full were measured [blocks 2e-3, lora
            1e-3, qlora 1e-3, full 3e-4].
        batch_size: windows per step [1].
        micro_batch_size: windows per forward of lora, qlora and full, where a step is to be made
            of several [1].
        precision: what products are computed in until the result is judged, float32 or bfloat16,
            in which a CPU is faster only if it has instructions for it; weights are float32
            [float32].
        gradient_checkpointing: run the blocks again for the backward pass of lora, qlora and full
            instead of keeping what they computed [lora False, qlora True, full False].
        target: of blocks, what the dense model gives there (dense), which makes up for the blocks
            before too, or what the dense block would give on the same inputs (block) [dense].
        kl_weight: of lora, qlora and full, the share of KL(dense || light) in the loss; the rest
            is the text's NLL, which teaches the text: perplexity on its like falls below the dense
            model's while the KL stays [1].
        rank: of adapters [16].
        alpha: the scale of adapters times their rank [32].
        heldout_share: last part of the healing windows, which judges.
        seed: of the adapters' start and the order of the windows.
    """
    settings = {
        "method": method,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "micro_batch_size": micro_batch_size,
        "precision": precision,
        "gradient_checkpointing": gradient_checkpointing,
        "target": target,
        "kl_weight": kl_weight,
        "rank": rank,
        "alpha": alpha,
    }
    warn_of_unused(settings)
    how = chosen(settings)
    checkpoint, windows = ctx["checkpoint"], ctx["healing"]
    heldout = num_heldout(windows, heldout_share)
    train = by_blocks if method == "blocks" else partial(on_text, method)
    healed = await in_thread(train, ctx, how, heldout, seed)
    light = checkpoint.evolve(healed.weights)
    judged = Windows(windows.tokens[-heldout:], windows.text)
    before, after = await in_thread(
        standings, ctx["dense"], [checkpoint, light], judged, announce=announce
    )
    weight = how.get("kl_weight", 1.0)
    kept = after.loss(weight) < before.loss(weight)
    metrics = {
        "kept": kept,
        "loss_before": before.loss(weight),
        "loss_after": after.loss(weight),
        "kl_before": before.kl,
        "kl_after": after.kl,
        "nll_before": before.nll,
        "nll_after": after.nll,
        "steps": healed.steps,
        "trained_parameters": healed.trained_parameters,
        **healed.curves,
    }
    return {"checkpoint": light if kept else checkpoint, "metrics": metrics}


@heal.foresee
def _fits(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Quantised weights and too few windows are refused before any work."""
    if "healing" in ctx:
        num_heldout(ctx["healing"], settings["heldout_share"])
    method: Method = settings["method"]
    if method == "qlora":
        nf4_values(torch.zeros(32, 64))  # what cannot be computed here is refused now
    checkpoint: Checkpoint | None = ctx.get("checkpoint")
    if checkpoint is None:
        return
    _require_no_values(ctx.get("history", ()), checkpoint)
    if method in ("blocks", "full"):
        return
    for linear in all_linears(checkpoint):
        if isinstance(checkpoint.refs[linear.tensor], Coded):
            raise SettingError(
                f"layer '{linear.name}' is quantised, and heal(method='{method}') "
                f"would store it as floats again; put heal before quantize, or use "
                f"method='blocks', which leaves it as it is and trains what is not quantised"
            )


def _require_no_values(history: Sequence[Step], checkpoint: Checkpoint) -> None:
    """Values that quantize stored in place of codes look like any floats, and would be trained."""
    if all(step.metrics.get("shrinks", True) for step in history if step.link == "quantize"):
        return
    for linear in all_linears(checkpoint):
        if not isinstance(checkpoint.refs[linear.tensor], Coded):
            raise SettingError(
                f"layer '{linear.name}' holds the values of its codes since quantize, and heal "
                f"would train them off their grid; put heal before quantize"
            )


@heal.memory
def _need(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    return need_bytes(ctx["dense"], ctx["checkpoint"], ctx["healing"], settings)


heal.forecast(heal_forecast)
