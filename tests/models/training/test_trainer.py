import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from interrupting import Place, Stopped, stop_at
from tiny import tiny_checkpoint, tiny_model, tiny_windows
from torch import Tensor, nn
from transformers import PreTrainedModel

from birdbone.errors import NumericsError, SettingError
from birdbone.models.blocks.empty_model import find_blocks
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.passes import resuming as keeping
from birdbone.models.training import trainer as module
from birdbone.models.training.distillation import Lesson, Teacher
from birdbone.models.training.trainer import Trained, Training, train

TRAINING = Training(learning_rate=3e-3, epochs=3, batch_size=2, micro_batch_size=1, heldout=2)
TOKENS = tiny_windows(8).tokens


def _lesson() -> Lesson:
    teacher = Teacher(Skeleton(tiny_checkpoint()), TOKENS, batch_size=4, announce=lambda *_: None)
    return Lesson(TOKENS, teacher, kl_weight=1.0)


def _model() -> PreTrainedModel:
    """Every second weight of the dense model's matrices is gone."""
    model = tiny_model()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data[:, ::2] = 0.0
    return model


def _train(
    model: PreTrainedModel, training: Training = TRAINING, lesson: Lesson | None = None, **more: Any
) -> Trained:
    blocks = find_blocks(model)[1]
    settings = {"keep_zeros": True, **more}
    return train(model, blocks, list(model.parameters()), lesson or _lesson(), training, **settings)


def _values(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_it_learns_and_wakes_no_zero() -> None:
    model, lesson = _model(), _lesson()
    before = _values(model)
    trained = _train(model, lesson=lesson)
    curve = trained.curves["heldout_loss"]
    assert trained.steps == 9
    assert len(curve) == 4
    assert min(curve) < 0.9 * curve[0]
    assert lesson.mean_loss(model, [torch.tensor([6, 7])]) == pytest.approx(min(curve))
    for old, new in zip(before, _values(model), strict=True):
        assert old.ndim == 1 or torch.equal(old == 0, new == 0)
        assert not torch.equal(old, new)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_zeros_that_are_not_to_be_kept_learn() -> None:
    model = _model()
    _train(model, keep_zeros=False)
    assert (model.get_parameter("model.layers.0.mlp.up_proj.weight") != 0).all()


class _Scripted(Lesson):
    """Trains in earnest, is judged by a script, and notes what a weight was each time."""

    def __init__(self, losses: Sequence[float]) -> None:
        super().__init__(TOKENS, None, kl_weight=0.0)
        self.losses, self.seen = list(losses), list[Tensor]()

    def mean_loss(self, model: nn.Module, batches: Sequence[Tensor]) -> float:
        self.seen.append(next(model.parameters()).detach().clone())
        return self.losses.pop(0)


@pytest.mark.parametrize(("losses", "best"), [([9, 5, 3, 4], 2), ([3, 5, 3, 4], 0)])
def test_the_best_is_kept_and_the_start_is_among_what_it_is_chosen_from(
    losses: list[float], best: int
) -> None:
    lesson, model = _Scripted(losses), _model()
    trained = _train(model, lesson=lesson)
    assert torch.equal(next(model.parameters()), lesson.seen[best])
    assert not torch.equal(lesson.seen[2], lesson.seen[3])
    assert trained.curves["heldout_loss"] == losses


class _Recording(Lesson):
    """Notes on which windows it was asked for a loss to learn from, and on which to judge."""

    def __init__(self) -> None:
        super().__init__(TOKENS, None, kl_weight=0.0)
        self.learned, self.judged = list[list[int]](), set[int]()

    def loss(self, model: nn.Module, windows: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.learned.append(windows.tolist())
        else:
            self.judged.update(windows.tolist())
        return super().loss(model, windows)


def test_the_last_windows_judge_and_every_other_is_learned_once_an_epoch() -> None:
    lesson = _Recording()
    _train(_model(), replace(TRAINING, batch_size=4, micro_batch_size=3), lesson)
    assert [len(part) for part in lesson.learned] == [3, 1, 2] * 3  # steps of 4 and 2 windows
    flat = [number for part in lesson.learned for number in part]
    epochs = [flat[place : place + 6] for place in (0, 6, 12)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(6))] * 3
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert lesson.judged == {6, 7}


def test_a_step_made_of_several_forwards_is_the_same_step() -> None:
    whole, parts = _model(), _model()
    _train(whole, replace(TRAINING, batch_size=6, micro_batch_size=6, epochs=1))
    _train(parts, replace(TRAINING, batch_size=6, micro_batch_size=4, epochs=1))
    for one, other in zip(_values(whole), _values(parts), strict=True):
        # Adam's first step is the learning rate times the gradient's sign, nearly.
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_running_blocks_again_for_the_backward_pass_changes_nothing() -> None:
    kept, again = _model(), _model()
    calls = []
    block = find_blocks(again)[1][1]
    block.register_forward_hook(lambda *about: calls.append(torch.is_grad_enabled()))
    block.self_attn.register_forward_hook(lambda *about: calls.append("inner"))
    _train(kept)
    _train(again, replace(TRAINING, checkpointing=True))
    assert all(torch.equal(a, b) for a, b in zip(_values(kept), _values(again), strict=True))
    learned, judged = 18, 8
    assert calls.count("inner") == 2 * learned + judged
    assert "forward" not in vars(block)


def test_narrow_products_learn_as_well_and_are_judged_in_float32() -> None:
    model, lesson = _model(), _lesson()
    trained = _train(model, replace(TRAINING, autocast=torch.bfloat16), lesson)
    curve = trained.curves["heldout_loss"]
    assert min(curve) < 0.9 * curve[0]
    assert curve[0] == lesson.mean_loss(_model(), [torch.tensor([6]), torch.tensor([7])])
    exact = _train(_model(), lesson=lesson).curves
    assert trained.curves["training_loss"] != exact["training_loss"]
    assert trained.curves["training_loss"] == pytest.approx(exact["training_loss"], rel=0.05)


@pytest.mark.parametrize("done", [1, 3, 4, 8])
def test_broken_off_it_goes_on_to_the_same_bytes(
    done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        keeping, "_TRAINING_FRACTION", math.inf
    )  # after every step, however slow the machine
    unbroken, model = _model(), _model()
    whole = _train(unbroken)
    place = Place()
    with pytest.raises(Stopped):
        _train(model, unfinished=place, announce=stop_at(done))
    again, heard = _model(), list[int]()
    trained = _train(again, unfinished=place, announce=lambda so_far, *_: heard.append(so_far))
    assert heard == list(range(done + 1, 10))
    assert trained == whole
    assert all(torch.equal(a, b) for a, b in zip(_values(unbroken), _values(again), strict=True))


def test_a_long_curve_is_kept_in_few_points() -> None:
    training = replace(TRAINING, epochs=12, batch_size=1)
    trained = _train(_model(), training)
    assert trained.steps == 72
    assert len(trained.curves["training_loss"]) == 24


def test_a_loss_that_runs_away_names_the_step_and_the_setting() -> None:
    with pytest.raises(NumericsError, match=r"step 2 is nan; lower learning_rate, now 1e\+30"):
        _train(_model(), replace(TRAINING, learning_rate=1e30))


def test_a_model_that_is_broken_from_the_start_is_named_as_that() -> None:
    with pytest.raises(NumericsError, match="before healing is nan; the model's own weights"):
        _train(_model(), lesson=_Scripted([math.nan]))


def test_accelerate_set_up_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**settings: Any) -> None:
        raise ValueError("AcceleratorState has already been initialized")

    monkeypatch.setattr(module, "Accelerator", refuse)
    with pytest.raises(SettingError, match=r"already been initialized\); run heal in a separate"):
        _train(_model())
