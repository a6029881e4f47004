"""Training by each method of heal, on the healing windows."""

from __future__ import annotations

import warnings
from functools import partial

import torch

from ...checkpoints import Checkpoint, ranks
from ...contexts.flow import Healable
from ...engine import announce
from ...models.blocks.linears import all_linears
from ...models.blocks.products import computed_in
from ...models.blocks.skeleton import Skeleton
from ...models.training.blockwise import BlockHealing, heal_blocks
from ...models.training.optimiser import Healed
from .methods import autocast_dtype
from .more_text import HealingText
from .settings import ADAPTERS, Chosen, HealMethod


def by_blocks(ctx: Healable, text: HealingText, how: Chosen, heldout: int, seed: int) -> Healed:
    """Train each block separately."""
    plan = ctx.get("plan")
    return heal_blocks(
        Skeleton(ctx["dense"]),
        Skeleton(ctx["checkpoint"], dtype=torch.float32),
        text.windows.tokens,
        BlockHealing(
            learning_rate=how.learning_rate,
            epochs=how.epochs,
            batch_size=how.batch_size,
            heldout=heldout,
            target=how.target,
            autocast=autocast_dtype(how.precision),
            seed=seed,
        ),
        kept_layers=None if plan is None else plan.kept_layers,
        unfinished=text.place,
        announce=lambda done, total: announce("healing blocks", done, total),
    )


def on_text(
    method: HealMethod, ctx: Healable, text: HealingText, how: Chosen, heldout: int, seed: int
) -> Healed:
    """Train the whole model on the healing windows: all of its weights, scales, or adapters."""
    # Imported here: accelerate and PEFT take seconds to import, and blocks need neither.
    from ...models.training.adapters import Adapting, heal_adapted
    from ...models.training.distillation import Lesson, Teacher
    from ...models.training.scales import heal_scales
    from ...models.training.trainer import Training
    from ...models.training.whole_model import heal_all

    checkpoint, tokens = ctx["checkpoint"], text.windows.tokens
    modules = _modules(checkpoint) if method in ADAPTERS else []
    training = Training(
        learning_rate=how.learning_rate,
        epochs=how.epochs,
        batch_size=how.batch_size,
        micro_batch_size=how.micro_batch_size,
        heldout=heldout,
        checkpointing=how.gradient_checkpointing,
        autocast=autocast_dtype(how.precision),
        seed=seed,
    )
    teacher = None
    if how.kl_weight:
        dense = Skeleton(ctx["dense"])
        with computed_in(training.autocast, dense.device):
            teacher = Teacher(
                dense,
                tokens,
                batch_size=how.micro_batch_size,
                announce=lambda done, total: announce("dense outputs", done, total),
            )
    lesson = Lesson(tokens, teacher, kl_weight=how.kl_weight)
    light = Skeleton(checkpoint, dtype=torch.float32)
    place, report = text.place, partial(announce, "healing")
    if method == "scales":
        return heal_scales(light, lesson, training, unfinished=place, announce=report)
    if method == "full":
        shard = how.shard and ranks.size() > 1
        return heal_all(light, lesson, training, shard=shard, unfinished=place, announce=report)
    adapting = Adapting(rank=how.rank, alpha=how.alpha, on_nf4=method == "qlora")
    return heal_adapted(
        light, modules, lesson, adapting, training, unfinished=place, announce=report
    )


def _modules(checkpoint: Checkpoint) -> list[str]:
    """The linears to adapt; warns of experts in one 3-D tensor, which get no adapter."""
    every = all_linears(checkpoint)
    left = [each for each in every if each.expert is not None]
    if left:
        warnings.warn(
            f"heal does not train {len(left)} expert matrices, such as '{left[0].name}': a tensor "
            f"that holds all experts takes no adapter; method='blocks' trains them",
            stacklevel=2,
        )
    return [each.name for each in every if each.expert is None]
