import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from torch import Tensor

from birdbone.checkpoints import Checkpoint
from birdbone.errors import NumericsError
from birdbone.models.distillation import Lesson, Teacher, Trained, Training, train
from birdbone.models.lora import MaskedLora
from birdbone.models.skeleton import Skeleton

TRAINING = Training(
    rank=4, alpha=8.0, learning_rate=1e-2, epochs=2, batch_size=2, kl_weight=1.0, seed=0
)
MODULES = ["model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj"]
TOKENS = tiny_windows(6).tokens
ALL = torch.arange(6)


def _teacher(checkpoint: Checkpoint) -> Teacher:
    skeleton = Skeleton(checkpoint)
    return Teacher(skeleton, TOKENS, batch_size=4, announce=lambda done, total: None)


def _logits(checkpoint: Checkpoint) -> Tensor:
    with torch.no_grad():
        return Skeleton(checkpoint).fill()(TOKENS, use_cache=False).logits


def _train(lesson: Lesson, training: Training = TRAINING, **options: object) -> Trained:
    light = Skeleton(tiny_checkpoint(seed=1), dtype=torch.float32)
    return train(light, MODULES, lesson, heldout=2, training=training, **options)


def test_the_teacher_says_what_the_dense_model_says() -> None:
    dense = tiny_checkpoint()
    chosen = torch.tensor([5, 0, 3])
    torch.testing.assert_close(_teacher(dense).logits(chosen), _logits(dense)[chosen])


@pytest.mark.parametrize("kl_weight", [0.0, 0.3, 1.0])
def test_the_loss_is_the_mix_of_both(kl_weight: float) -> None:
    dense, light = tiny_checkpoint(seed=0), tiny_checkpoint(seed=1)
    p = _logits(dense)[:, :-1].double().softmax(-1)
    q = _logits(light)[:, :-1].double().softmax(-1)
    divergence = float((p * (p / q).log()).sum(-1).mean())
    chances = q.gather(-1, TOKENS[:, 1:, None])
    expected = kl_weight * divergence + (1 - kl_weight) * float(-chances.log().mean())
    lesson = Lesson(TOKENS, _teacher(dense), kl_weight=kl_weight)
    model = Skeleton(light).fill()
    # float32 logits, summed over 128 tokens.
    assert lesson.mean_loss(model, torch.split(ALL, 4)) == pytest.approx(expected, rel=1e-5)


def test_without_a_teacher_the_loss_is_the_text_alone() -> None:
    model = Skeleton(tiny_checkpoint()).fill()
    expected = float(model(TOKENS, labels=TOKENS).loss)
    lesson = Lesson(TOKENS, None, kl_weight=1.0)
    assert lesson.mean_loss(model, [ALL]) == pytest.approx(expected, rel=1e-5)


def test_training_approaches_the_dense_model() -> None:
    trained = _train(Lesson(TOKENS, _teacher(tiny_checkpoint()), kl_weight=1.0))
    assert trained.loss_after < trained.loss_before
    assert trained.steps == 4
    assert trained.trained_parameters == 4 * (32 + 32) + 4 * (64 + 32)
    assert trained.weights.keys() == {f"{name}.weight" for name in MODULES}


class _Scripted(Lesson):
    """Trains in earnest, is judged by a script, and notes what the first adapter was each time."""

    def __init__(self, losses: Sequence[float]) -> None:
        super().__init__(TOKENS, None, kl_weight=0.0)
        self.losses, self.seen = list(losses), list[Tensor]()

    def mean_loss(self, model: torch.nn.Module, batches: Sequence[Tensor]) -> float:
        adapters = [each for each in model.modules() if isinstance(each, MaskedLora)]
        self.seen += [each.get_delta_weight("default").detach() for each in adapters[:1]]
        return self.losses.pop(0)


def test_the_best_epoch_is_kept() -> None:
    lesson = _Scripted([9.0, 5.0, 3.0, 4.0, 3.0])
    trained = _train(lesson, replace(TRAINING, epochs=3))
    name = f"{MODULES[0]}.weight"
    learned = trained.weights[name] - tiny_checkpoint(seed=1).tensors[name]
    torch.testing.assert_close(learned, lesson.seen[1], rtol=0, atol=1e-6)
    assert (lesson.seen[1] - lesson.seen[2]).abs().max() > 1e-4


class _Recording(Lesson):
    """Notes on which windows it was asked for a loss to learn from, and on which to judge."""

    def __init__(self) -> None:
        super().__init__(TOKENS, None, kl_weight=0.0)
        self.learned, self.judged = list[int](), set[int]()

    def loss(self, model: torch.nn.Module, windows: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.learned += windows.tolist()
        else:
            self.judged.update(windows.tolist())
        return super().loss(model, windows)


def test_the_last_windows_judge_and_every_other_is_learned_once_an_epoch() -> None:
    lesson = _Recording()
    _train(lesson, replace(TRAINING, epochs=3, batch_size=3))
    epochs = [lesson.learned[place : place + 4] for place in (0, 4, 8)]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3]] * 3
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert lesson.judged == {4, 5}


def test_a_loss_that_runs_away_names_the_step_and_the_setting() -> None:
    lesson = Lesson(TOKENS, None, kl_weight=0.0)
    with pytest.raises(
        NumericsError, match=r"after step 2 is nan; lower learning_rate, now 1e\+30"
    ):
        _train(lesson, replace(TRAINING, learning_rate=1e30))


def test_a_model_that_is_broken_from_the_start_is_named_as_that() -> None:
    lesson = _Scripted([math.nan])
    with pytest.raises(NumericsError, match="before healing is nan; the model's own weights"):
        _train(lesson)


class _Stop(Exception):
    pass


def test_announce_hears_every_step_and_may_stop() -> None:
    heard = []

    def announce(done: int, total: int) -> None:
        heard.append((done, total))
        if done == 3:
            raise _Stop

    with pytest.raises(_Stop):
        _train(Lesson(TOKENS, None, kl_weight=0.0), announce=announce)
    assert heard == [(1, 4), (2, 4), (3, 4)]
