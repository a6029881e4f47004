"""Blockwise healing: train each block of the light model toward the dense model's output there.

Each block is trained with Adam on its own output, with inputs from the healed blocks before it, so
one block is in memory at a time and no gradient crosses the model. The loss is the mean over tokens
of the relative squared error (`losses.relative_errors`). After EBFT
(https://arxiv.org/abs/2402.12419) and the transformer matching of 3BASiL
(https://arxiv.org/abs/2603.01376). Removed units stay removed and pruned weights stay zero; all
other parameters of the block are trained, norms and biases included. Unlike these papers, held-out
windows select the iterate (the start included) and the learning rate: a rate that works on many
windows can overfit on few.

On several ranks the windows of every step and the held-out ones are divided; every rank holds the
same weights after each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ...checkpoints import Checkpoint, Coded, ranks
from ...errors import SettingError
from ..blocks.announcing import AnnounceCount
from ..blocks.products import computed_in
from ..blocks.replay import Batch, Call, capture, check_finite, replay
from ..blocks.shared_state import carry_state
from ..blocks.skeleton import Skeleton
from ..passes.losses import check_loss, relative_errors
from ..passes.resuming import Keeping, ProgressStore
from .block_lessons import BlockLesson, BlockProgress
from .optimiser import Healed, Survivors, cosine
from .rank_steps import Step, own_steps, sum_gradients

HealingTarget = Literal["dense", "block"]

_MAX_GRADIENT_NORM = 1.0
_FALL = 4.0  # divides a learning rate that did not lower the held-out loss
_NUM_RATES = 3  # learning rates tried at most


@dataclass(frozen=True, kw_only=True)
class BlockHealing:
    """Settings of blockwise healing.

    Attributes:
        learning_rate: peak learning rate of Adam, the highest that is tried. A block starts with
            the rate of the previous block. If that rate does not lower the held-out loss, a quarter
            of it is tried, down to 1/16 of ``learning_rate``. Blocks 1, 2, 4, 8, ... also try lower
            rates for as long as the held-out loss falls.
        epochs: largest number of passes over the training windows.
        batch_size: windows per step, of all ranks together.
        heldout: number of windows, the last ones, held out for evaluation after every epoch.
        target: target of a block's output: the dense model's hidden states after that block
            (``dense``), which also corrects the error of earlier blocks, or the output of the dense
            block on the same inputs (``block``).
        patience: epochs without improvement after which a block is finished.
        autocast: dtype of matrix products, also in the forward passes that are compared; weights
            stay float32. None disables autocast.
        seed: seed of the order of the windows.
    """

    learning_rate: float
    epochs: int
    batch_size: int
    heldout: int
    target: HealingTarget
    patience: int = 2
    autocast: torch.dtype | None = None
    seed: int = 0


def heal_blocks(
    dense: Skeleton,
    light: Skeleton,
    tokens: Tensor,
    how: BlockHealing,
    *,
    kept_layers: Sequence[int] | None = None,
    unfinished: ProgressStore | None = None,
    announce: AnnounceCount = lambda done, total: None,
) -> Healed:
    """Heal all blocks in turn.

    Args:
        light: the light model, computing in float32; its blocks may be narrower inside.
        tokens: int64 ``[num_windows, length]``.
        kept_layers: indices of the dense blocks that the light model still has; None for all. The
            target of a block before a gap is the output of the last removed block.
        announce: receives the number of finished blocks and their total, also after every epoch;
            may raise to stop.

    Raises:
        SettingError: the models differ in depth and ``kept_layers`` does not say how.
        NumericsError: a loss or an activation that is NaN or infinite.
    """
    spans = _spans(len(dense.blocks), len(light.blocks), kept_layers)
    own = _Windows.of_rank(tokens, how)
    given = _Given(dense, capture(dense, own.batches), how)
    batches = capture(light, own.batches)
    hidden = [batch.hidden for batch in batches]
    progress = BlockProgress(Keeping(unfinished))
    for index, block in light.each_block():
        # Target: dense hidden states after the dense blocks that this block replaces.
        wanted = given.after(spans[index], hidden)
        calls = [batch.calls[index] for batch in batches]
        if index >= progress.num_blocks:
            examples = list(zip(hidden, calls, wanted, strict=True))
            pupil = _Pupil(light, index, own, examples, how)
            rate = progress.rate or how.learning_rate
            progress.add(pupil.learn(rate, partial(announce, index, len(light.blocks))))
        # Put the healed tensors in, and run them to get the next block's inputs.
        for name, value in progress.of_block(light, index).items():
            light.put(name, value)
        hidden = _through(block, hidden, calls, how)
        check_finite(hidden, f"{light.path}.{index}")
        announce(index + 1, len(light.blocks))
    return progress.healed()


def trainable(checkpoint: Checkpoint, names: Iterable[str]) -> list[str]:
    """The named tensors that can be trained: floating-point, and not quantised."""
    return [
        name
        for name in names
        if (ref := checkpoint.refs[name]).dtype.is_floating_point and not isinstance(ref, Coded)
    ]


def _spans(num_dense: int, num_light: int, kept: Sequence[int] | None) -> list[range]:
    """The dense blocks each light block replaces: its original, and those removed after it."""
    starts = list(range(num_dense)) if kept is None else list(kept)
    if len(starts) != num_light:
        found = "" if kept is None else f", and the pruning plan keeps {len(starts)}"
        raise SettingError(
            f"the light model has {num_light} blocks where the dense one has {num_dense}{found}; "
            f"heal in the chain that removed them, or with method='full'"
        )
    ends = [*starts[1:], num_dense]
    return [range(ends[0]), *(range(a, b) for a, b in zip(starts[1:], ends[1:], strict=True))]


@dataclass(frozen=True)
class _Windows:
    """The windows of this rank.

    Attributes:
        batches: int64 ``[windows, length]``, first those to train on, then held-out ones.
        steps: the steps of an epoch.
        num_learned: number of batches to train on.
    """

    batches: Sequence[Tensor]
    steps: Sequence[Step]
    num_learned: int

    @classmethod
    def of_rank(cls, tokens: Tensor, how: BlockHealing) -> _Windows:
        """The part of ``tokens`` ``[num_windows, length]`` that this rank computes."""
        learned, steps = own_steps(tokens[: -how.heldout], how.batch_size)
        heldout = tokens[-how.heldout :].tensor_split(ranks.size())[ranks.rank()]
        judged = heldout.split(how.batch_size) if len(heldout) else ()
        return cls([*learned, *judged], steps, len(learned))


@torch.no_grad()
def _through(
    block: nn.Module, hidden: Sequence[Tensor], calls: Sequence[Call], how: BlockHealing
) -> list[Tensor]:
    """The output of a block for every batch."""
    found = []
    for states, call in zip(hidden, calls, strict=True):
        with computed_in(how.autocast, call.device):
            left = replay(block, states, call)
            found.append(carry_state(left, left.to(states.dtype)))
    return found


class _Given:
    """The hidden states of the dense model after some of its blocks, for every batch."""

    def __init__(self, dense: Skeleton, batches: Sequence[Batch], how: BlockHealing) -> None:
        self._dense, self._batches, self._how = dense, batches, how
        self._hidden = [batch.hidden for batch in batches]

    def after(self, span: range, light: Sequence[Tensor]) -> list[Tensor]:
        """The output of a span of dense blocks on dense hidden states, or on ``light`` ones."""
        chained = self._how.target == "dense"
        dtype = self._dense.dtype
        entering = [carry_state(states, states.to(dtype)) for states in light]
        hidden = self._hidden if chained else entering
        for index in span:
            with self._dense.block(index) as block:
                calls = [batch.calls[index] for batch in self._batches]
                hidden = _through(block, hidden, calls, self._how)
            check_finite(hidden, f"{self._dense.path}.{index}")
        if chained:
            self._hidden = hidden
        return hidden


class _Pupil:
    """One block of the light model in training."""

    def __init__(
        self,
        light: Skeleton,
        index: int,
        own: _Windows,
        examples: Sequence[tuple[Tensor, Call, Tensor]],
        how: BlockHealing,
    ) -> None:
        self._checkpoint, self._index, self._how = light.checkpoint, index, how
        self._block, self._where = light.blocks[index], f"{light.path}.{index}"
        self._device = light.device
        self._steps = own.steps
        self._learned, self._judged = examples[: own.num_learned], examples[own.num_learned :]
        held = {f"{self._where}.{k}": v for k, v in self._block.named_parameters()}
        names = trainable(
            light.checkpoint, [name for name in light.block_names(index) if name in held]
        )
        self._parameters = {name: held[name] for name in names}

    def learn(self, rate: float, pause: Callable[[], None]) -> BlockLesson:
        """Train the block at falling learning rates; ``pause`` is called after every epoch."""
        before = self._judge("before healing", "the model's own weights are damaged")
        given = {name: self._checkpoint.tensors[name] for name in self._parameters}
        size = sum(parameter.numel() for parameter in self._parameters.values())
        best = start = BlockLesson(given, before, before, rate, 0, size)
        if before == 0 or not self._parameters:
            return start
        steps, lowest = 0, self._how.learning_rate / _FALL ** (_NUM_RATES - 1)
        while True:
            tried = self._trained(start, rate, pause)
            steps += tried.steps
            better = tried.after < best.after
            best = tried if better else best
            searching = better and self._looks_lower
            if rate <= lowest or (best.gained and not searching):
                break
            rate = max(rate / _FALL, lowest)
        if not best.gained:
            best = replace(best, rate=max(best.rate / _FALL, lowest))
        return replace(best, steps=steps)

    @property
    def _looks_lower(self) -> bool:
        """Whether to try lower rates: blocks 1, 2, 4, 8, ... only, since each costs a training."""
        number = self._index + 1
        return number & (number - 1) == 0

    def _trained(self, start: BlockLesson, rate: float, pause: Callable[[], None]) -> BlockLesson:
        """The result of training at one rate, from the start."""
        for name, parameter in self._parameters.items():
            parameter.data = start.weights[name].to(parameter.device, parameter.dtype, copy=True)
        steps = self._train(start.before, rate, pause)
        weights = self._stored()
        after = self._judge("after rounding", "the dtype it is stored in is too narrow")
        return replace(start, weights=weights, after=after, rate=rate, steps=steps)

    def _train(self, before: float, rate: float, pause: Callable[[], None]) -> int:
        """Train for the epochs and restore the best iterate; returns the number of steps."""
        how = self._how
        generator = torch.Generator().manual_seed(how.seed + self._index)
        parameters = list(self._parameters.values())
        for parameter in parameters:
            parameter.requires_grad_()
        survivors = Survivors(parameters)
        optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)
        num_steps = how.epochs * len(self._steps)
        best, kept, waited, steps = before, [each.detach().clone() for each in parameters], 0, 0
        fix = f"lower learning_rate, now {rate:g}"
        for epoch in range(1, how.epochs + 1):
            for number in torch.randperm(len(self._steps), generator=generator).tolist():
                self._descend(self._steps[number], parameters, fix)
                survivors.confine()  # zero the gradient of pruned weights
                nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
                optimizer.param_groups[0]["lr"] = rate * cosine(steps, num_steps)
                optimizer.step()
                steps += 1
            # Select on the held-out windows; stop after `patience` epochs without improvement.
            reached = self._judge(f"after epoch {epoch}", fix)
            waited = 0 if reached < best else waited + 1
            if reached < best:
                best, kept = reached, [each.detach().clone() for each in parameters]
            pause()
            if waited == how.patience:
                break
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.data = value
            parameter.requires_grad_(False)
            parameter.grad = None
        return steps

    def _descend(self, step: Step, parameters: Sequence[nn.Parameter], fix: str) -> None:
        """The gradients of the mean error of a step's windows, the same on every rank."""
        for parameter in parameters:
            parameter.grad = None
        if step.place is not None:
            with torch.enable_grad(), computed_in(self._how.autocast, self._device):
                loss = self._errors(self._learned[step.place]).mean() * step.fraction
            check_loss(loss.item(), f"in {self._where}", fix)
            torch.autograd.backward(loss)
        sum_gradients(parameters)

    @torch.no_grad()
    def _judge(self, when: str, fix: str) -> float:
        """Mean error per token on the held-out windows, of all ranks."""
        with computed_in(self._how.autocast, self._device):
            errors = [self._errors(example) for example in self._judged]
        own = torch.cat(errors) if errors else torch.zeros(0, device=self._device)
        return check_loss(float(ranks.joined(own).mean()), f"in {self._where} {when}", fix)

    def _errors(self, example: tuple[Tensor, Call, Tensor]) -> Tensor:
        hidden, call, wanted = example
        output = replay(self._block, hidden, call, stay=True)
        return relative_errors(output, wanted.to(output.device))

    def _stored(self) -> dict[str, Tensor]:
        """The parameters rounded to the dtypes they are stored in; the block then uses these."""
        weights = {}
        for name, parameter in self._parameters.items():
            weights[name] = parameter.detach().to(self._checkpoint.refs[name].dtype).cpu()
            parameter.data = weights[name].to(parameter.device, parameter.dtype)
        return weights
