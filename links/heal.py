"""heal: train what pruning left toward what the dense model says, without waking a zero."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from ..checkpoints import BitsAndBytes, Checkpoint, Quantized
from ..contexts.flow import Calibrated, Changed
from ..engine import announce, in_thread, link
from ..errors import DataError, SettingError
from ..models.linears import all_linears
from ..models.memory import pass_bytes
from ..models.skeleton import Skeleton
from ..texts import Windows


@link
async def heal(
    ctx: Calibrated,
    *,
    method: Literal["lora"] = "lora",
    rank: Annotated[int, Field(ge=1)] = 16,
    alpha: Annotated[float, Field(gt=0)] = 32.0,
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3,
    epochs: Annotated[int, Field(ge=1)] = 2,
    batch_size: Annotated[int, Field(ge=1)] = 1,
    kl_weight: Annotated[float, Field(ge=0, le=1)] = 0.5,
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    seed: int = 0,
) -> Changed:
    """Train low-rank adapters toward the dense model's outputs, then merge them into the weights.

    Every zero of an adapted weight stays exactly zero. Where the loss on held-out healing windows
    does not fall, the model is handed on as it came, and the history says so (kept: no).

    Settings:
        method: lora, masked as in PERP (2312.15230) where a matrix holds zeros.
        rank: of the adapters.
        alpha: their scale times the rank.
        learning_rate: of AdamW at its peak, after a warm-up and before a cosine.
        epochs: passes over the healing windows; the best of them is kept.
        batch_size: windows per step.
        kl_weight: share of KL(dense || light) in the loss; the rest is the text's NLL.
        heldout_share: last part of the healing windows, never trained on, which judges.
        seed: of the adapters' start and the order of the windows.
    """
    checkpoint, windows = ctx["checkpoint"], ctx["healing"]
    modules = _modules(checkpoint)

    def work() -> Any:
        # Here because PEFT takes seconds to import and no other link needs it.
        from ..models.distillation import Lesson, Teacher, Training, train

        training = Training(rank, alpha, learning_rate, epochs, batch_size, kl_weight, seed)
        teacher = None
        if kl_weight:
            teacher = Teacher(
                Skeleton(ctx["dense"]),
                windows.tokens,
                batch_size=batch_size,
                announce=lambda done, total: announce("dense outputs", done, total),
            )
        return train(
            Skeleton(checkpoint, dtype=torch.float32),
            modules,
            Lesson(windows.tokens, teacher, kl_weight=kl_weight),
            heldout=_num_heldout(windows, heldout_share),
            training=training,
            announce=lambda done, total: announce("healing", done, total),
        )

    trained = await in_thread(work)
    kept = trained.loss_after < trained.loss_before
    metrics = {
        "loss_before": trained.loss_before,
        "loss_after": trained.loss_after,
        "steps": trained.steps,
        "trained_parameters": trained.trained_parameters,
        "kept": kept,
    }
    return {
        "checkpoint": checkpoint.evolve(trained.weights) if kept else checkpoint,
        "metrics": metrics,
    }


def _modules(checkpoint: Checkpoint) -> list[str]:
    """The linears to adapt; warns of experts held in one 3-D tensor, which are left."""
    every = all_linears(checkpoint)
    left = [each for each in every if each.expert is not None]
    if left:
        warnings.warn(
            f"heal leaves {len(left)} expert matrices as they are, such as '{left[0].name}': "
            f"a tensor that holds all experts takes no adapter",
            stacklevel=2,
        )
    return [each.name for each in every if each.expert is None]


def _num_heldout(windows: Windows, share: float) -> int:
    """How many of the last windows judge; at least one, and at least one is left to train on."""
    heldout = math.ceil(share * windows.num_windows)
    if heldout < windows.num_windows:
        return heldout
    raise DataError(
        f"healing text '{windows.text}' has {windows.num_windows} windows and "
        f"heldout_share={share} keeps out {heldout}, so none is left to train on; give more "
        f"windows or lower the share"
    )


@heal.foresee
def _fits(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Quantised weights and too few windows are refused before any work."""
    if "healing" in ctx:
        _num_heldout(ctx["healing"], settings["heldout_share"])
    checkpoint: Checkpoint | None = ctx.get("checkpoint")
    if checkpoint is None:
        return
    for linear in all_linears(checkpoint):
        if isinstance(checkpoint.refs[linear.tensor], Quantized | BitsAndBytes):
            raise SettingError(
                f"layer '{linear.name}' is quantised, and healing would store it as floats again; "
                f"put heal before quantize"
            )


@heal.memory
def _need(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """The dense pass; the light model in float32, its adapters, and what a step keeps.

    Five values for each of an adapter (it, its gradient, two moments, the best one); activations
    twice over for what norms, attention and activation functions keep; six tensors of logits.
    """
    dense: Checkpoint = ctx["dense"]
    light: Checkpoint = ctx["checkpoint"]
    windows: Windows = ctx["healing"]
    batch: int = min(settings["batch_size"], windows.num_windows)
    rank: int = settings["rank"]
    sides = sum(sum(linear.shape) for linear in all_linears(light) if linear.expert is None)
    vocabulary = max(ref.shape[0] for ref in dense.refs.values() if len(ref.shape) == 2)
    step = batch * windows.length * (2 * sides + 6 * vocabulary)
    passed = pass_bytes(dense, windows, batch, grams=False) if settings["kl_weight"] else 0
    return passed + 4 * (light.num_parameters + 5 * rank * sides + step)
