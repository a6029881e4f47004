"""What a light model is to learn of the dense one: its words, not its weights.

The loss is KL(dense || light) over the next token at temperature 1, mixed with the text's own NLL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..blocks.replay import capture, logits, through_blocks
from ..blocks.skeleton import Skeleton

Announce = Callable[[int, int], None]


class Teacher:
    """What the dense model says on fixed windows: its last hidden states, kept instead of logits.

    The dense model streams through block by block and is not kept either, save embeddings and head.
    Under autocast its products are narrow too.
    """

    def __init__(
        self, dense: Skeleton, tokens: Tensor, *, batch_size: int, announce: Announce
    ) -> None:
        self._dense, self._tokens = dense, tokens
        batches = capture(dense, torch.split(tokens, batch_size))
        self._hidden = torch.cat(through_blocks(dense, batches, announce)).to(dense.dtype)

    def logits(self, windows: Tensor) -> Tensor:
        """Logits ``[num_windows, length, vocab_size]`` on the windows with these numbers."""
        return logits(self._dense, self._tokens[windows], self._hidden[windows])


class Lesson:
    """The loss on numbered windows: KL(dense || light) at temperature 1 mixed with the text's NLL.

    Args:
        tokens: int64 ``[num_windows, length]``.
        teacher: of the same windows; None leaves the NLL alone, whatever ``kl_weight`` is.
    """

    def __init__(self, tokens: Tensor, teacher: Teacher | None, *, kl_weight: float) -> None:
        self.tokens, self.teacher = tokens, teacher
        self.kl_weight = 0.0 if teacher is None else kl_weight

    def loss(self, model: nn.Module, windows: Tensor) -> Tensor:
        """Mean over every token that is predicted, in nats, float32."""
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
        """The loss over several batches of window numbers, each window counting alike."""
        total = sum(float(self.loss(model, windows)) * len(windows) for windows in batches)
        return total / sum(len(windows) for windows in batches)
