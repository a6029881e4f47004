"""What training gained: a model before and after it, beside the dense one, on text kept out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..checkpoints import Checkpoint
from ..texts import Windows
from .scoring import compare, last_hidden
from .skeleton import Skeleton

Announce = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Standing:
    """How far a model is from the dense one: KL(dense || it), and its NLL; nats per token."""

    kl: float
    nll: float

    def loss(self, kl_weight: float) -> float:
        """The mix of both that training is after."""
        return kl_weight * self.kl + (1 - kl_weight) * self.nll


def standings(
    dense: Checkpoint, models: list[Checkpoint], windows: Windows, *, announce: Announce
) -> list[Standing]:
    """Each model as it is stored, on the same windows; the dense one runs once for all."""

    def run(checkpoint: Checkpoint, label: str) -> tuple[Skeleton, Tensor]:
        skeleton = Skeleton(checkpoint)
        hidden = last_hidden(skeleton, windows, batch_size=1, label=label, announce=announce)
        return skeleton, hidden

    wanted = run(dense, "dense blocks")
    found = []
    for place, model in enumerate(models, 1):
        asked = wanted if model.id == dense.id else run(model, f"judging blocks, {place}")
        result = compare(wanted, asked, windows, announce=announce)
        found.append(Standing(float(result.kl.mean()), float(result.light_nll.mean())))
    return found
