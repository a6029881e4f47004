"""Block healing: every block of a light model trained to give what the dense one gives there.

Block by block, on inputs from the healed prefix: Adam on the block's own output, so that one block
is in memory at a time and no gradient crosses the model. The loss is the mean relative squared
error of a token (`losses.relative_errors`). After EBFT (https://arxiv.org/abs/2402.12419) and the
transformer matching of 3BASiL (https://arxiv.org/abs/2603.01376): what was removed stays removed,
what was zeroed stays zero, all else in the block moves, norms and biases too. We differ in that
windows kept out of training choose the iterate, the start among them, and the learning rate: what
suits many windows is noise on few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...checkpoints import Checkpoint, Coded
from ...errors import SettingError
from ..blocks.replay import Batch, Call, capture, check_finite, replay
from ..blocks.skeleton import Skeleton
from ..passes.losses import check_loss, relative_errors
from ..passes.resuming import Keeping, Unfinished
from .optimiser import Healed, Survivors, computed_in, cosine

Announce = Callable[[int, int], None]
Target = Literal["dense", "block"]

_MAX_GRADIENT_NORM = 1.0
_FALL = 4.0  # what the learning rate is divided by where it was too high
_NUM_RATES = 3  # that are tried at most
_FACTS = ("before", "after", "rate", "steps", "size")


@dataclass(frozen=True, kw_only=True)
class BlockHealing:
    """How blocks are healed.

    Attributes:
        learning_rate: of Adam at its peak, in the weights' own units; the highest that is tried.
            A block begins with the rate the one before it ended with, and tries a quarter of it,
            down to a sixteenth of this, where it gained nothing. Blocks 1, 2, 4, 8 and so on do so
            also for as long as it is better, by the windows kept out.
        epochs: passes over the training windows, at most.
        batch_size: windows in one step.
        heldout: last windows, never trained on, which judge after every epoch.
        target: what a block should give: what the dense model gives there (``dense``), which also
            makes up for the blocks before it, or what the dense block would give on the very
            inputs this one gets (``block``).
        patience: epochs without a better figure after which a block is left.
        autocast: narrower dtype that products are computed in, those of the two streams that are
            compared too; weights stay float32. None for none.
        seed: of the order of the windows.
    """

    learning_rate: float
    epochs: int
    batch_size: int
    heldout: int
    target: Target
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
    unfinished: Unfinished | None = None,
    announce: Announce = lambda done, total: None,
) -> Healed:
    """Heal all blocks in turn.

    Args:
        light: computes in float32; its blocks may be narrower inside than the dense ones.
        tokens: int64 ``[num_windows, length]``.
        kept_layers: which of the dense blocks the light model still has; None for all. A block
            after which some are gone is to give what the last of those gave.
        announce: told blocks done and their count, after every epoch too; may raise to stop.

    Raises:
        SettingError: the two differ in depth and nobody says which blocks are left.
        NumericsError: a loss or an activation that is NaN or infinite.
    """
    spans = _spans(len(dense.blocks), len(light.blocks), kept_layers)
    given = _Given(dense, _batches(dense, tokens, how), how)
    batches = _batches(light, tokens, how)
    hidden = [batch.hidden for batch in batches]
    progress = _Progress(Keeping(unfinished))
    for index, block in light.each_block():
        wanted = given.after(spans[index], hidden)
        calls = [batch.calls[index] for batch in batches]
        if index >= progress.num_blocks:
            pupil = _Pupil(light, index, list(zip(hidden, calls, wanted, strict=True)), how)
            rate = progress.rate or how.learning_rate
            progress.add(pupil.learn(rate, partial(announce, index, len(light.blocks))))
        for name, value in progress.of_block(light, index).items():
            light.put(name, value)
        hidden = _through(block, hidden, calls, how)
        check_finite(hidden, f"{light.path}.{index}")
        announce(index + 1, len(light.blocks))
    return progress.healed()


def trainable(checkpoint: Checkpoint, names: Iterable[str]) -> list[str]:
    """Those of the named tensors that can learn: floats, and not held as codes."""
    return [
        name
        for name in names
        if (ref := checkpoint.refs[name]).dtype.is_floating_point and not isinstance(ref, Coded)
    ]


def _spans(num_dense: int, num_light: int, kept: Sequence[int] | None) -> list[range]:
    """For every light block the dense ones it stands for: its own, and those gone after it."""
    starts = list(range(num_dense)) if kept is None else list(kept)
    if len(starts) != num_light:
        found = "" if kept is None else f", and the plan keeps {len(starts)}"
        raise SettingError(
            f"the light model has {num_light} blocks where the dense one has {num_dense}{found}; "
            f"heal in the chain that removed them, or with method='full'"
        )
    ends = [*starts[1:], num_dense]
    return [range(ends[0]), *(range(a, b) for a, b in zip(starts[1:], ends[1:], strict=True))]


def _batches(skeleton: Skeleton, tokens: Tensor, how: BlockHealing) -> list[Batch]:
    """Those to learn from, then those that judge; none holds windows of both."""
    parts = (tokens[: -how.heldout], tokens[-how.heldout :])
    return capture(skeleton, [batch for part in parts for batch in part.split(how.batch_size)])


@torch.no_grad()
def _through(
    block: nn.Module, hidden: Sequence[Tensor], calls: Sequence[Call], how: BlockHealing
) -> list[Tensor]:
    """What a block makes of every batch."""
    found = []
    for states, call in zip(hidden, calls, strict=True):
        with computed_in(how.autocast, states.device):
            found.append(replay(block, states, call).to(states.dtype))
    return found


class _Given:
    """What the dense model gives after some of its blocks, for every batch."""

    def __init__(self, dense: Skeleton, batches: Sequence[Batch], how: BlockHealing) -> None:
        self._dense, self._batches, self._how = dense, batches, how
        self._hidden = [batch.hidden for batch in batches]

    def after(self, span: range, light: Sequence[Tensor]) -> list[Tensor]:
        """What leaves the last block of a span that the dense stream, or ``light``, enters."""
        chained = self._how.target == "dense"
        hidden = self._hidden if chained else [states.to(self._dense.dtype) for states in light]
        for index in span:
            with self._dense.block(index) as block:
                calls = [batch.calls[index] for batch in self._batches]
                hidden = _through(block, hidden, calls, self._how)
            check_finite(hidden, f"{self._dense.path}.{index}")
        if chained:
            self._hidden = hidden
        return hidden


@dataclass(frozen=True)
class _Lesson:
    """What one block learned: its tensors as stored, and its error on the windows kept out.

    Attributes:
        rate: the learning rate that led there, at its peak; where nothing was gained, the one that
            the next block is to begin with.
        steps: taken at any rate.
        size: values that could move.
    """

    weights: dict[str, Tensor]
    before: float
    after: float
    rate: float
    steps: int
    size: int

    @property
    def gained(self) -> bool:
        """Whether the block came nearer."""
        return self.after < self.before


class _Pupil:
    """One block of the light model that learns."""

    def __init__(
        self,
        light: Skeleton,
        index: int,
        examples: Sequence[tuple[Tensor, Call, Tensor]],
        how: BlockHealing,
    ) -> None:
        self._checkpoint, self._index, self._how = light.checkpoint, index, how
        self._block, self._where = light.blocks[index], f"{light.path}.{index}"
        self._device = light.device
        num_judged = -(-how.heldout // how.batch_size)
        self._learned, self._judged = examples[:-num_judged], examples[-num_judged:]
        held = {f"{self._where}.{k}": v for k, v in self._block.named_parameters()}
        names = trainable(
            light.checkpoint, [name for name in light.block_names(index) if name in held]
        )
        self._parameters = {name: held[name] for name in names}

    def learn(self, rate: float, pause: Callable[[], None]) -> _Lesson:
        """Train the block as far as that helps; ``pause`` is called after every epoch."""
        before = self._judge("before healing", "the model's own weights are damaged")
        given = {name: self._checkpoint.tensors[name] for name in self._parameters}
        size = sum(parameter.numel() for parameter in self._parameters.values())
        best = start = _Lesson(given, before, before, rate, 0, size)
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
        """Of many blocks few do: it costs a training, and neighbours want much the same."""
        number = self._index + 1
        return number & (number - 1) == 0

    def _trained(self, start: _Lesson, rate: float, pause: Callable[[], None]) -> _Lesson:
        """What the block learns at one rate from where it starts."""
        for name, parameter in self._parameters.items():
            parameter.data = start.weights[name].to(parameter.device, parameter.dtype, copy=True)
        steps = self._train(start.before, rate, pause)
        weights = self._stored()
        after = self._judge("after rounding", "the dtype it is stored in is too narrow")
        return replace(start, weights=weights, after=after, rate=rate, steps=steps)

    def _train(self, before: float, rate: float, pause: Callable[[], None]) -> int:
        """Go through the epochs and back to the best one; the steps that were taken."""
        how = self._how
        generator = torch.Generator().manual_seed(how.seed + self._index)
        parameters = list(self._parameters.values())
        for parameter in parameters:
            parameter.requires_grad_()
        survivors = Survivors(parameters)
        optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)
        num_steps = how.epochs * len(self._learned)
        best, kept, waited, steps = before, [each.detach().clone() for each in parameters], 0, 0
        mend = f"lower learning_rate, now {rate:g}"
        for epoch in range(1, how.epochs + 1):
            for place in torch.randperm(len(self._learned), generator=generator).tolist():
                self._descend(self._learned[place], parameters, mend)
                survivors.confine()
                nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
                optimizer.param_groups[0]["lr"] = rate * cosine(steps, num_steps)
                optimizer.step()
                steps += 1
            reached = self._judge(f"after epoch {epoch}", mend)
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

    def _descend(
        self, example: tuple[Tensor, Call, Tensor], parameters: Sequence[nn.Parameter], mend: str
    ) -> None:
        for parameter in parameters:
            parameter.grad = None
        with torch.enable_grad(), computed_in(self._how.autocast, self._device):
            loss = self._errors(example).mean()
        check_loss(loss.item(), f"in {self._where}", mend)
        torch.autograd.backward(loss)

    @torch.no_grad()
    def _judge(self, when: str, mend: str) -> float:
        """The mean error on the windows kept out, each token counting alike."""
        with computed_in(self._how.autocast, self._device):
            errors = torch.cat([self._errors(example) for example in self._judged])
        return check_loss(float(errors.mean()), f"in {self._where} {when}", mend)

    def _errors(self, example: tuple[Tensor, Call, Tensor]) -> Tensor:
        hidden, call, wanted = example
        return relative_errors(replay(self._block, hidden, call), wanted)

    def _stored(self) -> dict[str, Tensor]:
        """The parameters in the dtypes they are stored in; the block computes with them after."""
        weights = {}
        for name, parameter in self._parameters.items():
            weights[name] = parameter.detach().to(self._checkpoint.refs[name].dtype).cpu()
            parameter.data = weights[name].to(parameter.device, parameter.dtype)
        return weights


class _Progress:
    """The blocks that are done, kept so that a run that was broken off goes on after them."""

    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping
        tensors, facts = keeping.load() or ({}, {})
        self._weights: dict[str, Tensor] = dict(tensors)
        self._facts: dict[str, list[Any]] = {key: list(facts.get(key, ())) for key in _FACTS}

    @property
    def num_blocks(self) -> int:
        """How many blocks are done."""
        return len(self._facts["before"])

    @property
    def rate(self) -> float | None:
        """What the last block ended with; None before the first."""
        return self._facts["rate"][-1] if self._facts["rate"] else None

    def add(self, lesson: _Lesson) -> None:
        """Take in what the next block learned."""
        self._weights.update(lesson.weights)
        for key, values in self._facts.items():
            values.append(getattr(lesson, key))
        self._keeping.save(lambda: (self._weights, self._facts))

    def of_block(self, light: Skeleton, index: int) -> dict[str, Tensor]:
        """A done block's healed tensors."""
        names = light.block_names(index)
        return {name: self._weights[name] for name in names if name in self._weights}

    def healed(self) -> Healed:
        """The outcome, once all blocks are done."""
        before, after, rates, steps, sizes = (self._facts[key] for key in _FACTS)
        curves = {
            "block_error_before": before,
            "block_error_after": after,
            "block_learning_rate": rates,
        }
        return Healed(self._weights, sum(steps), sum(sizes), curves)
