import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from torch import Tensor

from birdbone.checkpoints import Checkpoint
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.training.distillation import Lesson, Teacher

TOKENS = tiny_windows(6).tokens
ALL = torch.arange(6)


def _teacher(checkpoint: Checkpoint) -> Teacher:
    skeleton = Skeleton(checkpoint)
    return Teacher(skeleton, TOKENS, batch_size=4, announce=lambda done, total: None)


def _logits(checkpoint: Checkpoint) -> Tensor:
    with torch.no_grad():
        return Skeleton(checkpoint).fill()(TOKENS, use_cache=False).logits


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
