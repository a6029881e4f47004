"""Whole-model healing: train all remaining weights toward the dense model's predictions.

Needs five float32 values per weight (weight, gradient, two moments of Adam, best iterate), so it is
for models of up to a few billion parameters.
"""

from __future__ import annotations

from torch import Tensor

from ...checkpoints import Checkpoint
from ..blocks.announcing import AnnounceStep
from ..blocks.skeleton import Skeleton
from ..passes.resuming import ProgressStore
from .blockwise import trainable
from .distillation import Lesson
from .optimiser import Healed
from .trainer import Training, train


def heal_all(
    light: Skeleton,
    lesson: Lesson,
    training: Training,
    *,
    unfinished: ProgressStore | None = None,
    announce: AnnounceStep = lambda done, total, loss: None,
) -> Healed:
    """Train all floating-point tensors of a model, embeddings and head included; fills ``light``.

    Pruned weights stay zero; quantised weights are not trained.

    Raises:
        NumericsError: a loss that is NaN or infinite.
    """
    model = light.fill()
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
        unfinished=unfinished,
        announce=announce,
    )
    weights = {name: _stored(light.checkpoint, name, held[name]) for name in names}
    return Healed(weights, trained.steps, sum(each.numel() for each in parameters), trained.curves)


def _stored(checkpoint: Checkpoint, name: str, value: Tensor) -> Tensor:
    return value.detach().to(checkpoint.refs[name].dtype).cpu()
