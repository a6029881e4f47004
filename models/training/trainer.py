"""Train a whole model through accelerate, keep the best iterate, and resume an interrupted run.

In float32 or under autocast. AdamW with warm-up and cosine decay. The held-out loss after every
epoch selects the iterate; the start is one of the candidates. Several ranks divide the windows of
every step and the held-out ones; each has the whole model and optimiser, or its part (`sharding`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...checkpoints import ranks
from ...errors import SettingError
from ..blocks.announcing import AnnounceStep
from ..blocks.products import computed_in
from ..passes.losses import check_loss
from ..passes.resuming import Keeping, ProgressStore
from .distillation import Lesson
from .optimiser import Survivors, cosine
from .rank_steps import Replicated

_MAX_GRADIENT_NORM = 1.0
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_FIX_MODEL = "the model's own weights are damaged or do not fit the dtype they are stored in"
# Points of a reported loss curve.
_NUM_POINTS = 32


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of whole-model training.

    Attributes:
        learning_rate: peak learning rate.
        epochs: passes over the training windows.
        batch_size: windows per optimiser step, of all ranks together.
        micro_batch_size: windows per forward pass; gradients are accumulated over a step.
        heldout: number of windows, the last ones, held out for evaluation.
        checkpointing: recompute the activations of blocks in the backward pass.
        autocast: dtype of matrix products; None disables autocast.
        seed: seed of the order of the windows.
    """

    learning_rate: float
    epochs: int
    batch_size: int
    micro_batch_size: int = 1
    heldout: int = 1
    checkpointing: bool = False
    autocast: torch.dtype | None = None
    seed: int = 0

    def order(self, num_windows: int) -> list[Tensor]:
        """The window indices of every step, reshuffled each epoch."""
        generator = torch.Generator().manual_seed(self.seed)
        count = num_windows - self.heldout
        return [
            step
            for _ in range(self.epochs)
            for step in torch.randperm(count, generator=generator).split(self.batch_size)
        ]


@dataclass(frozen=True)
class Trained:
    """The number of optimiser steps, and the losses in order, by name."""

    steps: int
    curves: Mapping[str, Sequence[float]]


def train(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    parameters: Sequence[nn.Parameter],
    lesson: Lesson,
    training: Training,
    *,
    keep_zeros: bool,
    division: Replicated | None = None,
    unfinished: ProgressStore | None = None,
    announce: AnnounceStep = lambda done, total, loss: None,
) -> Trained:
    """Train some parameters of a model in place and restore the best iterate.

    Args:
        division: how the model lies on the ranks; whole on each by default.
        keep_zeros: keep pruned weights at zero (see `Survivors`).
        announce: receives every optimiser step and its loss; may raise to stop.

    Raises:
        NumericsError: a loss that is NaN or infinite.
        SettingError: accelerate is already configured differently in this process.
    """
    division = division or Replicated()
    own = division.parameters(parameters)
    survivors = Survivors(own if keep_zeros else ())
    course = _Course(model, own, survivors, lesson, training, division)
    keeping = Keeping(unfinished)
    order = training.order(len(lesson.tokens))
    with _checkpointed(blocks if training.checkpointing else ()):
        course.begin(keeping.load())
        for step in range(course.steps, len(order)):
            course.descend(order[step], fraction=cosine(step, len(order)))
            if course.steps % (len(order) // training.epochs) == 0:
                course.judge(f"after step {course.steps}")
            keeping.save(course.state)
            announce(course.steps, len(order), course.loss)
    return course.end()


class _Course:
    """The model, its optimiser, and the best iterate so far."""

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        survivors: Survivors,
        lesson: Lesson,
        training: Training,
        division: Replicated,
    ) -> None:
        self.steps = 0
        self._lesson, self._training, self._division = lesson, training, division
        self._parameters = list(parameters)
        for parameter in self._parameters:
            parameter.requires_grad_()
        self._survivors = survivors
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=training.learning_rate, weight_decay=0.0, fused=True
        )
        self._accelerator = _accelerator(self._parameters[0].device)
        # accelerate would move the model to a device of its own choice.
        self._model = self._accelerator.prepare_model(model, device_placement=False)
        numbers = torch.arange(len(lesson.tokens))[-training.heldout :]
        self._judged = numbers.split(training.micro_batch_size)
        self._best, self._kept = math.inf, list[Tensor]()
        self._losses, self._heldout = list[float](), list[float]()

    def begin(self, kept: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None) -> None:
        """Evaluate the start, or restore an interrupted training."""
        if kept is None:
            self.judge("before healing", _FIX_MODEL)
            return
        tensors, facts = kept
        self.steps, self._best = facts["steps"], facts["best"]
        self._losses, self._heldout = list(facts["losses"]), list(facts["heldout"])
        own = {name: self._division.own(tensor) for name, tensor in tensors.items()}
        self._kept = [own[f"best.{place}"] for place in range(len(self._parameters))]
        for place, parameter in enumerate(self._parameters):
            _set(parameter, own[f"now.{place}"])
            if f"step.{place}" in own:
                self._optimizer.state[parameter] = {
                    name: own[f"{name}.{place}"].to(parameter.device) for name in _MOMENTS
                }

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything needed to resume from here, on any number of ranks."""
        own = {f"best.{place}": value for place, value in enumerate(self._kept)}
        for place, parameter in enumerate(self._parameters):
            own[f"now.{place}"] = parameter
            for name, value in self._optimizer.state.get(parameter, {}).items():
                own[f"{name}.{place}"] = value
        tensors = {name: self._division.whole(value) for name, value in own.items()}
        facts = {
            "steps": self.steps,
            "best": self._best,
            "losses": self._losses,
            "heldout": self._heldout,
        }
        return tensors, facts

    def descend(self, windows: Tensor, *, fraction: float) -> None:
        """Take one step on the mean loss of some windows, at a fraction of the peak rate."""
        training = self._training
        fix = f"lower learning_rate, now {training.learning_rate:g}"
        self._optimizer.zero_grad()
        total = 0.0
        device = self._parameters[0].device
        start = self.steps * training.batch_size
        for part, share in self._division.parts(windows, start, training.micro_batch_size):
            with torch.enable_grad(), computed_in(training.autocast, device):
                loss = self._lesson.loss(self._model, part) * share
            total += check_loss(loss.item(), f"at healing step {self.steps + 1}", fix)
            self._accelerator.backward(loss)
        self._division.sum_gradients(self._parameters)
        self._survivors.confine()
        norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        norm = self._division.norm(norm)
        nn.utils.clip_grads_with_norm_(self._parameters, _MAX_GRADIENT_NORM, norm)
        self._optimizer.param_groups[0]["lr"] = training.learning_rate * fraction
        self._optimizer.step()
        self.steps += 1
        self._losses.append(float(ranks.total(torch.tensor(total, dtype=torch.float64))))

    @property
    def loss(self) -> float:
        """The training loss of the last step."""
        return self._losses[-1]

    def judge(self, when: str, fix: str | None = None) -> None:
        """Evaluate on the held-out windows, and keep the present iterate if it is the best."""
        fix = fix or f"lower learning_rate, now {self._training.learning_rate:g}"
        reached = check_loss(self._lesson.mean_loss(self._model, self._judged), when, fix)
        self._heldout.append(reached)
        if reached < self._best:
            self._best = reached
            self._kept = [parameter.detach().clone() for parameter in self._parameters]

    def end(self) -> Trained:
        """Restore the best iterate."""
        for parameter, value in zip(self._parameters, self._kept, strict=True):
            _set(parameter, value)
            parameter.grad = None
            parameter.requires_grad_(False)
        self._optimizer.state.clear()
        curves = {"training_loss": _thinned(self._losses), "heldout_loss": self._heldout}
        return Trained(self.steps, curves)


@torch.no_grad()
def _set(parameter: nn.Parameter, value: Tensor) -> None:
    """Fill a parameter, whose memory may be that of a divided model."""
    parameter.copy_(value)


def _accelerator(device: torch.device) -> Accelerator:
    """An Accelerator without mixed precision; its state is shared by the whole process.

    It would join the ranks that torchrun's variables name to a process group of its own.
    """
    try:
        with ranks.alone():
            return Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    except ValueError as error:
        raise SettingError(
            f"accelerate is already configured in this process with other settings than healing "
            f"needs ({error}); run heal in a separate process"
        ) from error


@contextmanager
def _checkpointed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Activation checkpointing of blocks: keep their inputs, recompute the rest in backward.

    The switch of transformers works only in train mode, which would enable dropout.
    """
    with ExitStack() as stack:
        for block in blocks:
            again = partial(
                checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
            )
            stack.enter_context(running_as(block, again))
        yield


@contextmanager
def running_as(block: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Call ``forward`` in place of the block's own, inside the context."""
    before = block.__dict__.get("forward")
    block.forward = forward
    try:
        yield
    finally:
        del block.forward
        if before is not None:
            block.forward = before


def _thinned(losses: Sequence[float]) -> list[float]:
    """The curve reduced to a few points, each the mean of equally many steps."""
    size = max(1, math.ceil(len(losses) / _NUM_POINTS))
    parts = [losses[start : start + size] for start in range(0, len(losses), size)]
    return [sum(part) / len(part) for part in parts]
