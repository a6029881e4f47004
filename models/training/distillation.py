"""The distillation loss of whole-model healing.

KL(dense || light) of the next token at temperature 1, mixed with the NLL of the text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...checkpoints import ranks
from ..blocks.announcing import AnnounceCount
from ..blocks.replay import capture, logits, through_blocks
from ..blocks.skeleton import Skeleton


class Teacher:
    """The dense model's predictions on fixed windows, kept as last hidden states instead of logits.

    The dense model runs block by block; only its embeddings and head stay in memory. Autocast
    applies to it too. Ranks divide the windows, and each keeps the hidden states of all.
    """

    def __init__(
        self, dense: Skeleton, tokens: Tensor, *, batch_size: int, announce: AnnounceCount
    ) -> None:
        self._dense, self._tokens = dense, tokens
        batches = capture(dense, ranks.share(tokens).split(batch_size))
        own = torch.cat(through_blocks(dense, batches, announce)).to(dense.dtype)
        self._hidden = ranks.joined(own)

    def logits(self, windows: Tensor) -> Tensor:
        """Logits ``[num_windows, length, vocab_size]`` of the windows with these indices."""
        return logits(self._dense, self._tokens[windows], self._hidden[windows])


class Lesson:
    """The loss on windows by index: KL(dense || light) at temperature 1 mixed with the text's NLL.

    Args:
        tokens: int64 ``[num_windows, length]``.
        teacher: predictions on the same windows; without one the loss is the NLL alone.
        kl_weight: weight of KL, 0 to 1; the NLL has the rest.
    """

    def __init__(self, tokens: Tensor, teacher: Teacher | None, *, kl_weight: float) -> None:
        self.tokens, self.teacher = tokens, teacher
        self.kl_weight = 0.0 if teacher is None else kl_weight

    def loss(self, model: nn.Module, windows: Tensor) -> Tensor:
        """Mean over all predicted tokens, nats, float32."""
        tokens = self.tokens[windows].to(next(model.parameters()).device)
        light = model(tokens, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        light = light.log_softmax(-1)
        loss = nn.functional.nll_loss(light, tokens[:, 1:].flatten())
        if self.teacher is None:
            return loss
        dense = self.teacher.logits(windows)[:, :-1].flatten(0, 1).float().log_softmax(-1)
        divergence = nn.functional.kl_div(light, dense, reduction="batchmean", log_target=True)
        return self.kl_weight * divergence + (1 - self.kl_weight) * loss

    @torch.no_grad()
    def mean_loss(self, model: nn.Module, batches: Sequence[Tensor]) -> float:
        """Mean loss per window over several batches of window indices, which ranks divide.

        Every rank runs the model equally often, as one that is divided over ranks needs.
        """
        own = []
        for start in range(0, len(batches), ranks.size()):
            place = start + ranks.rank()
            part = batches[place if place < len(batches) else 0]
            loss = float(self.loss(model, part)) * len(part)
            own += [loss] if place < len(batches) else []
        losses = ranks.joined(torch.tensor(own, dtype=torch.float64))
        return math.fsum(losses.tolist()) / sum(len(windows) for windows in batches)
