"""heal: train what pruning left toward what the dense model gives, without waking a zero."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field

from ..checkpoints import BitsAndBytes, Checkpoint, GgmlBlocks, Quantized
from ..contexts.flow import Changed, Healable
from ..engine import announce, in_thread, link, unfinished
from ..errors import SettingError
from ..models.block_healing import BlockHealing, Target, block_bytes, heal_blocks
from ..models.gain import standings
from ..models.healed import Healed
from ..models.linears import all_linears
from ..models.memory import pass_bytes
from ..models.skeleton import Skeleton
from ..texts import Windows
from .healing import Method, Precision, autocast_dtype, chosen, num_heldout, warn_of_unused


@link
async def heal(
    ctx: Healable,
    *,
    method: Method = "blocks",
    epochs: Annotated[int, Field(ge=1)] | None = None,
    learning_rate: Annotated[float, Field(gt=0)] | None = None,
    batch_size: Annotated[int, Field(ge=1)] | None = None,
    precision: Precision | None = None,
    target: Target | None = None,
    rank: Annotated[int, Field(ge=1)] | None = None,
    alpha: Annotated[float, Field(gt=0)] | None = None,
    kl_weight: Annotated[float, Field(ge=0, le=1)] | None = None,
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    seed: int = 0,
) -> Changed:
    """Train what is left of the model toward the dense one; every zero of a weight stays zero.

    The last healing windows are kept out of training and judge the whole model, before and after,
    as it is stored. Where it is not better after, it is handed on as it came, and the history says
    so (kept: no). What is not given is as suits the method, written in brackets.

    Settings:
        method: blocks, each block by itself toward what the dense one gives there (2402.12419);
            lora, low-rank adapters, masked as in PERP (2312.15230), merged at the end.
        epochs: passes over the healing windows, the best of which is kept [blocks 4, lora 2].
        learning_rate: at its peak, after a warm-up and before a cosine [blocks 2e-4, lora 1e-3].
        batch_size: windows per step [1].
        precision: what products are computed in while training blocks, float32 or bfloat16;
            weights are float32 [float32].
        target: of blocks, what the dense model gives there (dense), which makes up for the blocks
            before too, or what the dense block would give on the same inputs (block) [dense].
        rank: of lora's adapters [16].
        alpha: of lora, the adapters' scale times the rank [32].
        kl_weight: of lora, the share of KL(dense || light) in the loss; the rest is the text's
            NLL [0.5].
        heldout_share: last part of the healing windows, which judges.
        seed: of the adapters' start and the order of the windows.
    """
    settings = {
        "method": method,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "precision": precision,
        "target": target,
        "rank": rank,
        "alpha": alpha,
        "kl_weight": kl_weight,
    }
    warn_of_unused(settings)
    how = chosen(settings)
    checkpoint, windows = ctx["checkpoint"], ctx["healing"]
    heldout = num_heldout(windows, heldout_share)
    train = _blocks if method == "blocks" else _lora
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


def _blocks(ctx: Healable, how: Mapping[str, Any], heldout: int, seed: int) -> Healed:
    plan = ctx.get("plan")
    return heal_blocks(
        Skeleton(ctx["dense"]),
        Skeleton(ctx["checkpoint"], dtype=torch.float32),
        ctx["healing"].tokens,
        BlockHealing(
            learning_rate=how["learning_rate"],
            epochs=how["epochs"],
            batch_size=how["batch_size"],
            heldout=heldout,
            target=how["target"],
            autocast=autocast_dtype(how["precision"]),
            seed=seed,
        ),
        kept_layers=None if plan is None else plan.kept_layers,
        unfinished=unfinished(),
        announce=lambda done, total: announce("healing blocks", done, total),
    )


def _lora(ctx: Healable, how: Mapping[str, Any], heldout: int, seed: int) -> Healed:
    # Here because PEFT takes seconds to import and no other method needs it.
    from ..models.distillation import Lesson, Teacher, Training, train

    checkpoint, windows = ctx["checkpoint"], ctx["healing"]
    modules = _modules(checkpoint)
    training = Training(
        how["rank"],
        how["alpha"],
        how["learning_rate"],
        how["epochs"],
        how["batch_size"],
        how["kl_weight"],
        seed,
    )
    teacher = None
    if training.kl_weight:
        teacher = Teacher(
            Skeleton(ctx["dense"]),
            windows.tokens,
            batch_size=training.batch_size,
            announce=lambda done, total: announce("dense outputs", done, total),
        )
    trained = train(
        Skeleton(checkpoint, dtype=torch.float32),
        modules,
        Lesson(windows.tokens, teacher, kl_weight=training.kl_weight),
        heldout=heldout,
        training=training,
        announce=lambda done, total: announce("healing", done, total),
    )
    return Healed(trained.weights, trained.steps, trained.trained_parameters)


def _modules(checkpoint: Checkpoint) -> list[str]:
    """The linears to adapt; warns of experts held in one 3-D tensor, which are left."""
    every = all_linears(checkpoint)
    left = [each for each in every if each.expert is not None]
    if left:
        warnings.warn(
            f"heal leaves {len(left)} expert matrices as they are, such as '{left[0].name}': "
            f"a tensor that holds all experts takes no adapter; method='blocks' trains them",
            stacklevel=2,
        )
    return [each.name for each in every if each.expert is None]


@heal.foresee
def _fits(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Quantised weights and too few windows are refused before any work."""
    if "healing" in ctx:
        num_heldout(ctx["healing"], settings["heldout_share"])
    checkpoint: Checkpoint | None = ctx.get("checkpoint")
    if checkpoint is None or settings["method"] == "blocks":
        return
    for linear in all_linears(checkpoint):
        if isinstance(checkpoint.refs[linear.tensor], Quantized | BitsAndBytes | GgmlBlocks):
            raise SettingError(
                f"layer '{linear.name}' is quantised, and heal(method='{settings['method']}') "
                f"would store it as floats again; put heal before quantize, or use "
                f"method='blocks', which leaves it as it is and trains what is not quantised"
            )


@heal.memory
def _need(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """What training takes; what judging takes comes after it and is less."""
    how = chosen(settings)
    dense: Checkpoint = ctx["dense"]
    light: Checkpoint = ctx["checkpoint"]
    windows: Windows = ctx["healing"]
    if settings["method"] == "blocks":
        return block_bytes(dense, light, windows, batch_size=how["batch_size"])
    return _lora_bytes(dense, light, windows, how)


def _lora_bytes(
    dense: Checkpoint, light: Checkpoint, windows: Windows, how: Mapping[str, Any]
) -> int:
    """The dense pass; the light model in float32, its adapters, and what a step keeps.

    Five values for each of an adapter (it, its gradient, two moments, the best one); activations
    twice over for what norms, attention and activation functions keep; six tensors of logits.
    """
    batch: int = min(how["batch_size"], windows.num_windows)
    sides = sum(sum(linear.shape) for linear in all_linears(light) if linear.expert is None)
    vocabulary = max(ref.shape[0] for ref in dense.refs.values() if len(ref.shape) == 2)
    step = batch * windows.length * (2 * sides + 6 * vocabulary)
    passed = pass_bytes(dense, windows, batch, grams=False) if how["kl_weight"] else 0
    adapters: int = 5 * how["rank"] * sides
    return passed + 4 * (light.num_parameters + adapters + step)
