"""Teaching a light model what the dense one says, through low-rank adapters.

The loss is KL(dense || light) over the next token at temperature 1, mixed with the text's own
NLL. Windows kept out of training choose the epoch and say whether it helped at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from ..checkpoints import Checkpoint
from ..errors import NumericsError
from .lora import attach, merge
from .replay import capture, logits, through_blocks
from .skeleton import Skeleton

_WARMUP_SHARE = 0.1
_MAX_GRADIENT_NORM = 1.0
_MEND_MODEL = "the model's own weights are damaged or do not fit the dtype they are stored in"

Announce = Callable[[int, int], None]


@dataclass(frozen=True)
class Training:
    """How adapters are trained.

    Attributes:
        rank, alpha: of the adapters, which are scaled by ``alpha / rank``.
        learning_rate: of AdamW at its peak; warmed up over a tenth of the steps, then a cosine.
        epochs: passes over the training windows.
        batch_size: windows in one step.
        kl_weight: share of KL(dense || light) in the loss, in nats; the text's own NLL is the rest.
        seed: of the adapters' start and the order of the windows.
    """

    rank: int
    alpha: float
    learning_rate: float
    epochs: int
    batch_size: int
    kl_weight: float
    seed: int


@dataclass(frozen=True)
class Trained:
    """What training led to.

    Attributes:
        weights: the adapted weights by checkpoint name, each laid out and in the dtype as stored.
        loss_before, loss_after: mean loss in nats a token on the held-out windows, the latter
            of ``weights`` as they are here, rounded.
        steps: of the optimiser.
        trained_parameters: values in all adapters.
    """

    weights: Mapping[str, Tensor]
    loss_before: float
    loss_after: float
    steps: int
    trained_parameters: int


class Teacher:
    """What the dense model says on fixed windows: its last hidden states, kept instead of logits.

    The dense model streams through block by block and is not kept either, save embeddings and head.
    """

    def __init__(
        self, dense: Skeleton, tokens: Tensor, *, batch_size: int, announce: Announce
    ) -> None:
        self._dense, self._tokens = dense, tokens
        batches = capture(dense, torch.split(tokens, batch_size))
        self._hidden = torch.cat(through_blocks(dense, batches, announce))

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


def train(
    light: Skeleton,
    modules: Sequence[str],
    lesson: Lesson,
    *,
    heldout: int,
    training: Training,
    announce: Announce = lambda done, total: None,
) -> Trained:
    """Train adapters on all windows but the last ``heldout``; keep the epoch best on those.

    Fills ``light``. ``announce`` is told of every step of the optimiser, and may raise to stop.

    Raises:
        NumericsError: a loss that is NaN or infinite.
    """
    generator = torch.Generator().manual_seed(training.seed)
    numbers = torch.arange(len(lesson.tokens))
    learned, judged = numbers[:-heldout], torch.split(numbers[-heldout:], training.batch_size)
    model = light.fill()
    before = _check_loss(lesson.mean_loss(model, judged), "before healing", _MEND_MODEL)
    adapted = attach(model, modules, rank=training.rank, alpha=training.alpha, generator=generator)
    order = [
        torch.split(learned[torch.randperm(len(learned), generator=generator)], training.batch_size)
        for _ in range(training.epochs)
    ]
    parameters = [each for each in adapted.parameters() if each.requires_grad]
    steps = _fit(adapted, parameters, lesson, order, judged, training, announce)
    weights = _rounded(merge(adapted), modules, light.checkpoint)
    after = _check_loss(lesson.mean_loss(model, judged), "after rounding", _MEND_MODEL)
    return Trained(weights, before, after, steps, sum(each.numel() for each in parameters))


def _fit(
    adapted: nn.Module,
    parameters: Sequence[nn.Parameter],
    lesson: Lesson,
    order: Sequence[Sequence[Tensor]],
    judged: Sequence[Tensor],
    training: Training,
    announce: Announce,
) -> int:
    """Train in the given order of windows, epoch by epoch, and go back to the best; the steps."""
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=0.0)
    total = sum(len(epoch) for epoch in order)
    schedule = LambdaLR(optimizer, lambda step: _rate(step, total))
    mend = f"lower learning_rate, now {training.learning_rate}"
    best, kept, step = math.inf, [each.detach().clone() for each in parameters], 0
    for epoch in order:
        for windows in epoch:
            step += 1
            with torch.enable_grad():
                loss = lesson.loss(adapted, windows)
            _check_loss(loss.item(), f"at healing step {step}", mend)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            announce(step, total)
        reached = _check_loss(lesson.mean_loss(adapted, judged), f"after step {step}", mend)
        if reached < best:
            best, kept = reached, [each.detach().clone() for each in parameters]
    for parameter, value in zip(parameters, kept, strict=True):
        parameter.data = value
    return step


def _rate(step: int, total: int) -> float:
    """The share of the learning rate at a step, counted from 0; never zero, so no step is idle."""
    rising = (step + 1) / max(1, round(_WARMUP_SHARE * total))
    return min(rising, 0.5 * (1 + math.cos(math.pi * step / total)))


def _check_loss(loss: float, when: str, mend: str) -> float:
    if not math.isfinite(loss):
        raise NumericsError(f"the loss {when} is {loss}; {mend}")
    return loss


def _rounded(
    model: PreTrainedModel, modules: Sequence[str], checkpoint: Checkpoint
) -> dict[str, Tensor]:
    """The modules' weights in the dtypes they are stored in; the model computes with them after."""
    weights = {}
    for name in (f"{module}.weight" for module in modules):
        parameter = model.get_parameter(name)
        weights[name] = parameter.detach().to(checkpoint.refs[name].dtype).cpu()
        parameter.data = weights[name].to(parameter.device, parameter.dtype, copy=True)
    return weights
