"""Healing by low-rank adapters, merged into the weights at the end; on a 4-bit base if wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .distillation import Lesson
from .healed import Healed
from .keeping import Unfinished
from .lora import adapters, attach
from .nf4_base import to_nf4
from .skeleton import Skeleton
from .training import Training, train


@dataclass(frozen=True, kw_only=True)
class Adapting:
    """What adapters are and stand on.

    Attributes:
        rank, alpha: of the adapters, which are scaled by ``alpha / rank``.
        on_nf4: whether the weights under them are held in 4 bits meanwhile (QLoRA,
            https://arxiv.org/abs/2305.14314).
    """

    rank: int
    alpha: float
    on_nf4: bool = False


def heal_adapted(
    light: Skeleton,
    modules: Sequence[str],
    lesson: Lesson,
    adapting: Adapting,
    training: Training,
    *,
    unfinished: Unfinished | None = None,
    announce: Callable[[int, int], None] = lambda done, total: None,
) -> Healed:
    """Train adapters on the linears called ``modules`` and add them to the weights as stored.

    Fills ``light``. A base in 4 bits is never read again: what adapters learned on it is added to
    the weights it was made from.

    Raises:
        NumericsError: a loss that is NaN or infinite.
        MissingExtraError: bitsandbytes is wanted and cannot be used here.
    """
    masks: dict[str, Tensor] = {}
    packed = set(modules) if adapting.on_nf4 else set[str]()
    model = light.fill(lambda path, block: masks.update(to_nf4(block, path, packed)))
    adapted = attach(
        model,
        modules,
        rank=adapting.rank,
        alpha=adapting.alpha,
        generator=torch.Generator().manual_seed(training.seed),
        masks=masks,
    )
    parameters = [each for each in adapted.parameters() if each.requires_grad]
    trained = train(
        adapted,
        light.blocks,
        parameters,
        lesson,
        training,
        keep_zeros=False,
        unfinished=unfinished,
        announce=announce,
    )
    stored = light.checkpoint.tensors
    weights = {
        f"{name}.weight": adapter.added_to(stored[f"{name}.weight"])
        for name, adapter in adapters(adapted).items()
    }
    size = sum(each.numel() for each in parameters)
    return Healed(weights, trained.steps, size, trained.curves)
