"""Whole-model healing: train all remaining weights toward the dense model's predictions.

Needs five float32 values per weight (weight, gradient, two moments of Adam, best iterate), so it is
for models of up to a few billion parameters, or several ranks that divide these values.
"""

from __future__ import annotations

from ..blocks.announcing import AnnounceStep
from ..blocks.skeleton import Skeleton
from ..passes.resuming import ProgressStore
from .blockwise import trainable
from .distillation import Lesson
from .optimiser import Healed
from .rank_steps import Replicated
from .trainer import Training, train


def heal_all(
    light: Skeleton,
    lesson: Lesson,
    training: Training,
    *,
    shard: bool = False,
    unfinished: ProgressStore | None = None,
    announce: AnnounceStep = lambda done, total, loss: None,
) -> Healed:
    """Train all floating-point tensors of a model, embeddings and head included; fills ``light``.

    Pruned weights stay zero; quantised weights are not trained.

    Args:
        shard: divide the model, its gradients and its optimiser over ranks.

    Raises:
        NumericsError: a loss that is NaN or infinite.
    """
    if not shard:
        return _healed(light, lesson, training, Replicated(), unfinished, announce)
    # Imported here: FSDP2 takes a second to import.
    from .sharding import sharded

    with sharded(light.device) as division:
        return _healed(light, lesson, training, division, unfinished, announce)


def _healed(
    light: Skeleton,
    lesson: Lesson,
    training: Training,
    division: Replicated,
    unfinished: ProgressStore | None,
    announce: AnnounceStep,
) -> Healed:
    model = light.fill(division.divide)
    division.divide("", model)
    held = dict(model.named_parameters())
    names = [name for name in trainable(light.checkpoint, light.checkpoint.refs) if name in held]
    parameters = [held[name] for name in names]
    trained = train(
        model,
        light.blocks,
        parameters,
        lesson,
        training,
        keep_zeros=True,
        division=division,
        unfinished=unfinished,
        announce=announce,
    )
    refs = light.checkpoint.refs
    weights = {
        name: division.whole(own.to(refs[name].dtype)).cpu()
        for name, own in zip(names, division.parameters(parameters), strict=True)
    }
    return Healed(weights, trained.steps, sum(each.numel() for each in parameters), trained.curves)
