"""Healing by low-rank adapters, merged into the weights at the end; on a 4-bit base if wanted.

Linears of a block exchanged for bitsandbytes' 4-bit ones, to train adapters on.

On a CPU with AVX512-BF16, bitsandbytes repacks 4-bit weights at the first forward in eval mode, and
what is computed or read after it can be garbage. So these linears are in train mode for good, where
that does not happen, and nothing ever reads their weights back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..blocks.skeleton import Skeleton
from ..codecs.bitsandbytes import fits_nf4, linear_4bit
from ..passes.resuming import Unfinished
from .distillation import Lesson
from .masked_lora import adapters, attach
from .optimiser import Healed
from .trainer import Training, train


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


def to_nf4(block: nn.Module, path: str, names: Collection[str]) -> dict[str, Tensor]:
    """Hold the named linears of a block in NF4 with double quantisation, in place.

    Args:
        path: the block's, which the names begin with. A linear of another kind, or of a shape that
            does not run everywhere (`bitsandbytes.fits_nf4`), is left as it is.

    Returns:
        Where the weights that held zeros were not zero, by name; booleans
        ``[out_features, in_features]``.

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
