"""Scales of quantised weights in training: what they compute, what is stored, what stays."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from tiny_folders import own_logits, plain_logits, quantized, written

from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.journal.work_in_progress import WorkInProgress
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.training.distillation import Lesson, Teacher
from birdbone.models.training.optimiser import Healed
from birdbone.models.training.scales import LearnedScales, heal_scales
from birdbone.models.training.trainer import Training

ARCHITECTURES = ["llama_tied", "opt", "gemma3", "mixtral", "qwen3"]
TRAINING = Training(learning_rate=8e-2, epochs=3, batch_size=1, heldout=2)


def _lesson(dense: Checkpoint) -> Lesson:
    """One text again and again, so that what is learned of it holds on the windows kept out."""
    tokens = tiny_windows(1).tokens.repeat(6, 1)
    teacher = Teacher(Skeleton(dense), tokens, batch_size=1, announce=lambda done, total: None)
    return Lesson(tokens, teacher, kl_weight=1.0)


def _heal(dense: Checkpoint, light: Checkpoint) -> Healed:
    return heal_scales(Skeleton(light, dtype=torch.float32), _lesson(dense), TRAINING)


def _coded(light: Checkpoint) -> dict[str, Quantized]:
    return {name: ref for name, ref in light.refs.items() if isinstance(ref, Quantized)}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_scales_learn_and_codes_stay(arch: str) -> None:
    dense = tiny_checkpoint(arch)
    light = quantized(dense, bits=3)
    healed = _heal(dense, light)
    assert healed.weights.keys() == _coded(light).keys()
    assert healed.trained_parameters == sum(ref.num_scales for ref in _coded(light).values())
    assert min(healed.curves["heldout_loss"]) < 0.9 * healed.curves["heldout_loss"][0]
    for name, ref in _coded(light).items():
        learned = healed.weights[name]
        assert isinstance(learned, Quantized)
        assert torch.equal(learned.codes, ref.codes)
        assert not torch.equal(learned.scales, ref.scales)
        assert torch.equal(learned.scales.sign(), ref.scales.sign())
        assert learned.scales.dtype == ref.scales.dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("zero_points", [False, True])
def test_the_value_in_training_is_that_of_what_is_stored(
    dtype: torch.dtype, zero_points: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-8, 8, (6, 8), generator=generator, dtype=torch.int8)
    scales = torch.rand(6, 2, generator=generator).sub_(0.5).to(dtype)
    points = torch.full((6, 2), 3, dtype=torch.int8) if zero_points else None
    ref = Quantized(codes, scales, bits=4, zero_points=points)
    learned = LearnedScales(ref, torch.device("cpu"))
    assert torch.equal(learned.value(), ref.values(torch.float32))
    learned.moves.data = torch.rand(6, 2, generator=generator)
    stored = learned.stored()
    assert torch.equal(learned.value(), stored.values(torch.float32))
    assert not torch.equal(stored.scales, ref.scales)


def test_a_move_of_one_moves_the_largest_code_by_a_step() -> None:
    codes = torch.tensor([[-4, 3, 1, -4]], dtype=torch.int8)
    learned = LearnedScales(
        Quantized(codes, torch.tensor([[0.5, -2.0]]), bits=3), torch.device("cpu")
    )
    learned.moves.data = torch.tensor([[1.0, -1.0]])
    assert torch.equal(learned.value(), torch.tensor([[-2.5, 1.875, -1.5, 6.0]]))


def test_its_gradient_is_that_of_plain_products() -> None:
    """With scales in float64, which are not rounded."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-4, 4, (2, 5, 6), generator=generator, dtype=torch.int8)  # two experts
    scales = torch.rand(2, 5, 3, generator=generator, dtype=torch.float64) + 0.1
    learned = LearnedScales(Quantized(codes, scales, bits=3), torch.device("cpu"))

    def value(moves: torch.Tensor) -> torch.Tensor:
        learned.moves = moves  # type: ignore[assignment]
        return learned.value()

    assert torch.autograd.gradcheck(
        value, torch.zeros(2, 5, 3, dtype=torch.float64, requires_grad=True)
    )


@pytest.mark.parametrize("move", [-8.0, -16.0, 1e9, -1e9, float("nan")])
def test_no_scale_vanishes_or_turns(move: float) -> None:
    scales = torch.tensor([[6e-8, -6e-8, 6e4]], dtype=torch.float16)
    ref = Quantized(torch.ones(1, 3, dtype=torch.int8), scales, bits=4)
    learned = LearnedScales(ref, torch.device("cpu"))
    learned.moves.data.fill_(move)
    found = learned.stored().scales
    assert torch.equal(found.sign(), scales.sign())
    assert bool(torch.isfinite(found).all())


def test_other_tensors_and_formats_stay() -> None:
    dense = tiny_checkpoint()
    light = quantized(dense)
    kept = "model.layers.1.mlp.up_proj.weight"
    block = Quantized(torch.ones(64, 32, dtype=torch.int8), torch.ones(2, 1), bits=8, block_size=32)
    healed = _heal(dense, light.evolve({kept: block}))
    assert healed.weights.keys() == _coded(light).keys() - {kept}


def test_a_healed_folder_loads_in_plain_transformers(tmp_path: Path) -> None:
    dense = tiny_checkpoint("llama_tied")
    light = quantized(dense)
    healed = light.evolve(_heal(dense, light).weights)
    folder = written(healed, tmp_path / "light")
    assert torch.equal(plain_logits(folder), own_logits(healed))


def test_recomputed_activations_change_nothing() -> None:
    dense = tiny_checkpoint("qwen3")
    light = quantized(dense, bits=3)
    plain, again = (
        heal_scales(
            Skeleton(light, dtype=torch.float32),
            _lesson(dense),
            replace(TRAINING, checkpointing=checkpointing),
        )
        for checkpointing in (False, True)
    )
    assert plain.curves == again.curves


def test_an_interrupted_training_goes_on(tmp_path: Path) -> None:
    dense = tiny_checkpoint("llama_tied")
    light, lesson = quantized(dense, bits=3), _lesson(dense)

    def heal(place: Path, stop_at: int | None = None) -> Healed:
        def announce(done: int, total: int, loss: float) -> None:
            if done == stop_at:
                raise KeyboardInterrupt

        work = WorkInProgress(place, lambda line: None)
        model = Skeleton(light, dtype=torch.float32)
        return heal_scales(model, lesson, TRAINING, unfinished=work, announce=announce)

    whole = heal(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        heal(tmp_path / "cut", stop_at=5)
    resumed = heal(tmp_path / "cut")
    assert resumed.steps == whole.steps
    for name, ref in whole.weights.items():
        assert isinstance(ref, Quantized)
        again = resumed.weights[name]
        assert isinstance(again, Quantized)
        assert torch.equal(again.scales, ref.scales)
