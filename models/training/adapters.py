"""Healing with LoRA adapters that are merged at the end, optionally on a 4-bit base (QLoRA).

On a CPU with AVX512-BF16, bitsandbytes repacks 4-bit weights at the first forward pass in eval
mode; outputs and weights read after that can be wrong. The 4-bit linears are therefore kept in
train mode, where this does not happen, and their weights are never read back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..blocks.announcing import AnnounceStep
from ..blocks.skeleton import Skeleton
from ..codecs.bitsandbytes import fits_nf4, linear_4bit
from ..passes.resuming import ProgressStore
from .distillation import Lesson
from .masked_lora import adapters, attach
from .optimiser import Healed
from .trainer import Training, train


@dataclass(frozen=True, kw_only=True)
class Adapting:
    """Settings of the adapters.

    Attributes:
        rank, alpha: rank and alpha of the adapters; their scale is ``alpha / rank``.
        on_nf4: hold the base weights in NF4 during training (QLoRA,
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
    unfinished: ProgressStore | None = None,
    announce: AnnounceStep = lambda done, total, loss: None,
) -> Healed:
    """Train adapters on the linears named in ``modules`` and merge them into the stored weights.

    Fills ``light``. Adapters trained on a 4-bit base are added to the weights it was made from.

    Raises:
        NumericsError: a loss that is NaN or infinite.
        MissingExtraError: a 4-bit base is set and bitsandbytes cannot be used here.
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


def to_nf4(block: nn.Module, path: str, names: Collection[str]) -> dict[str, Tensor]:
    """Replace the named linears of a block by NF4 ones with double quantisation, in place.

    Args:
        path: path of the block, the prefix of the names. A linear of another class, or of a shape
            that bitsandbytes does not run on every device (`bitsandbytes.fits_nf4`), is skipped.

    Returns:
        Masks of the weights that contain zeros, by name: bool ``[out_features, in_features]``, True
        where the weight is not zero.

    Raises:
        MissingExtraError: bitsandbytes cannot be used here.
    """
    masks = {}
    for inner, linear in list(block.named_modules()):
        name = f"{path}.{inner}"
        if name in names and type(linear) is nn.Linear and fits_nf4(linear.weight.shape):
            mask = linear.weight.detach() != 0
            if not bool(mask.all()):
                masks[name] = mask
            block.set_submodule(inner, _in_4_bits(linear))
    return masks


def _in_4_bits(linear: nn.Linear) -> nn.Module:
    made = linear_4bit(linear.weight.detach())
    made.bias = linear.bias
    made.train()
    assert made.weight.dtype == torch.uint8
    return made
