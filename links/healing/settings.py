"""The settings of heal, with the defaults of each method and the settings it uses."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field

from ...checkpoints import ranks
from ...checkpoints.placement import Precision
from ...engine import Halved, Settings
from ...models.training.blockwise import HealingTarget
from .duration import Duration

HealMethod = Literal["blocks", "scales", "lora", "qlora", "full"]


class HealSettings(Settings):
    """The settings of heal; None stands for the default of the method, given in brackets."""

    method: HealMethod = "blocks"
    """blocks trains each block separately to reproduce the original block's outputs (2402.12419);
    full trains all weights to reproduce the original model's logits; lora trains low-rank adapters
    to do so, masked as in PERP (2312.15230) and merged at the end; qlora trains them on a base held
    in 4 bits (2305.14314) and merges them into the weights as stored; scales trains the scales of
    quantised weights to do so and keeps their codes (2407.11062), so it comes after quantize."""

    epochs: Annotated[int, Field(ge=1)] | None = None
    """Passes over the healing windows, the best of which is kept [blocks 2, scales 1, lora 2, qlora
    2, full 2]."""

    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate, after a warm-up and before a cosine decay; for blocks the highest that is
    tried, down to a sixteenth of it if held-out windows favour that; for scales in steps of the
    grid, by which the largest code's value moves. Lower it for models much wider than 576, where
    those of blocks, scales and full were measured [blocks 2e-3, scales 8e-3, lora 1e-3, qlora
    1e-3, full 3e-4]."""

    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Windows per step; several ranks divide them [1]."""

    micro_batch_size: Annotated[Annotated[int, Field(ge=1)] | None, Halved()] = None
    """Windows per forward pass for scales, lora, qlora and full; a step accumulates gradients over
    several [1]."""

    precision: Precision | None = None
    """Dtype of matrix products during training, float32 or bfloat16, which is faster on a CPU only
    if it has instructions for it; auto is that of the passes over calibration text (precision of
    load). Weights are float32 [blocks float32, scales auto, lora float32, qlora float32, full
    float32]."""

    gradient_checkpointing: bool | None = None
    """Recompute the activations of blocks in the backward pass instead of keeping them, for scales,
    lora, qlora and full [scales False, lora False, qlora True, full False]."""

    target: HealingTarget | None = None
    """For blocks: the outputs of the original model at that depth (dense), which also corrects the
    error of earlier blocks, or those of the original block on the same inputs (block) [dense]."""

    kl_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    """For scales, lora, qlora and full: weight of KL(original || light) in the loss. The rest is
    the NLL of the text, which fits the model to this kind of text: its perplexity there falls below
    that of the original model while the KL does not improve [1]."""

    rank: Annotated[int, Field(ge=1)] | None = None
    """Rank of the adapters [16]."""

    alpha: Annotated[float, Field(gt=0)] | None = None
    """Scale of the adapters: their product is multiplied by alpha / rank [32]."""

    shard: bool | None = None
    """For full on several ranks: divide weights, gradients and optimiser over them, by FSDP2 of
    torch, for models that do not fit on one device [False]."""

    tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens of text to train on: what calibrate's healing windows lack of them is sampled from the
    original model; by default nothing is sampled."""

    time: Duration | None = None
    """Time for healing, such as 30min or 2h: as much text is sampled from the original model as can
    be sampled and trained on in it, at the speed measured at the start. The number of windows is
    decided then and kept; with tokens too, the smaller amount counts."""

    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction of calibrate's healing windows, the last ones, that are held out to evaluate the
    result."""

    seed: int = 0
    """Seed of the adapters' initial values and of the order of the windows."""


@dataclass(frozen=True)
class Chosen:
    """The settings in effect: as given, or the default of the method; see `HealSettings`."""

    learning_rate: float
    epochs: int = 2
    batch_size: int = 1
    micro_batch_size: int = 1
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    target: HealingTarget = "dense"
    kl_weight: float = 1.0
    rank: int = 16
    alpha: float = 32.0
    shard: bool = False


DEFAULTS: Mapping[HealMethod, Chosen] = MappingProxyType(
    {
        "blocks": Chosen(learning_rate=2e-3),
        "scales": Chosen(learning_rate=8e-3, epochs=1, precision="auto"),
        "lora": Chosen(learning_rate=1e-3),
        "qlora": Chosen(learning_rate=1e-3, gradient_checkpointing=True),
        "full": Chosen(learning_rate=3e-4),
    }
)
"""The defaults of each method."""

ADAPTERS: tuple[HealMethod, ...] = ("lora", "qlora")
"""The methods that train adapters."""

_EVERY = ("epochs", "learning_rate", "batch_size", "precision")
_WHOLE = (*_EVERY, "micro_batch_size", "gradient_checkpointing", "kl_weight")
USED: Mapping[HealMethod, tuple[str, ...]] = MappingProxyType(
    {
        "blocks": (*_EVERY, "target"),
        "scales": _WHOLE,
        "lora": (*_WHOLE, "rank", "alpha"),
        "qlora": (*_WHOLE, "rank", "alpha"),
        "full": (*_WHOLE, "shard"),
    }
)
"""By method: the settings it uses, besides heldout_share and seed."""


def chosen(settings: HealSettings) -> Chosen:
    """The settings that the method uses, as given or by its defaults."""
    given = {name: getattr(settings, name) for name in USED[settings.method]}
    return replace(
        DEFAULTS[settings.method],
        **{name: value for name, value in given.items() if value is not None},
    )


def warn_of_ignored(settings: HealSettings) -> None:
    """Warn of settings that were given and that the method does not use."""
    known = {name for used in USED.values() for name in used}
    for name in sorted(known - set(USED[settings.method])):
        value = getattr(settings, name)
        if value is not None:
            users = [f"'{method}'" for method, used in USED.items() if name in used]
            warnings.warn(
                f"heal({name}={value!r}) is not used by method '{settings.method}', "
                f"only by {', '.join(users)}",
                stacklevel=3,
            )


def warn_of_ranks(how: Chosen) -> None:
    """Warn of steps with fewer windows than ranks, and of a model to divide over one."""
    count = ranks.size()
    if how.batch_size < count:
        warnings.warn(
            f"heal(batch_size={how.batch_size}): each step has fewer windows than the {count} "
            f"ranks, so some wait while the others train; batch_size={count} gives each one",
            stacklevel=3,
        )
    if how.shard and count == 1:
        warnings.warn(
            "heal(shard=True) divides the model over several ranks, and this is one process; start "
            "it with torchrun",
            stacklevel=3,
        )
