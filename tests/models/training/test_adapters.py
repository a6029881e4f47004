from dataclasses import replace
from typing import Any

import pytest
import torch
from interrupting import Place, Stopped, stop_at
from tiny import tiny_checkpoint, tiny_windows

from birdbone.checkpoints import Checkpoint
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.training.adapters import Adapting, heal_adapted
from birdbone.models.training.distillation import Lesson, Teacher
from birdbone.models.training.optimiser import Healed
from birdbone.models.training.trainer import Training

# 32 wide is too narrow for NF4, whose blocks are of 64: down_proj alone is held in 4 bits.
MODULES = [
    f"model.layers.{index}.{name}"
    for index in range(3)
    for name in ("self_attn.q_proj", "mlp.down_proj")
]
# One text again and again, so that what is learned of it holds on the windows kept out.
TOKENS = tiny_windows(1).tokens.repeat(8, 1)
TRAINING = Training(learning_rate=5e-3, epochs=3, batch_size=2, heldout=2)


def _pruned() -> Checkpoint:
    """Half of every second adapted weight is zero."""
    light = tiny_checkpoint()
    fresh = {}
    for module in MODULES[::3] + MODULES[1::3]:
        weight = light.tensors[f"{module}.weight"]
        fresh[f"{module}.weight"] = weight.masked_fill(weight.abs() < weight.abs().median(), 0.0)
    return light.evolve(fresh)


def _heal(
    light: Checkpoint, training: Training = TRAINING, on_nf4: bool = False, **more: Any
) -> Healed:
    teacher = Teacher(Skeleton(tiny_checkpoint()), TOKENS, batch_size=4, announce=lambda *_: None)
    lesson = Lesson(TOKENS, teacher, kl_weight=1.0)
    adapting = Adapting(rank=4, alpha=8.0, on_nf4=on_nf4)
    skeleton = Skeleton(light, dtype=torch.float32)
    return heal_adapted(skeleton, MODULES, lesson, adapting, training, **more)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("on_nf4", [False, True])
def test_it_learns_and_wakes_no_zero(on_nf4: bool, checkpointing: bool) -> None:
    light = _pruned()
    healed = _heal(light, replace(TRAINING, checkpointing=checkpointing), on_nf4)
    curve = healed.curves["heldout_loss"]
    assert min(curve) < curve[0]
    assert healed.trained_parameters == 3 * (4 * (32 + 32) + 4 * (64 + 32))
    assert healed.weights.keys() == {f"{module}.weight" for module in MODULES}
    for name, value in healed.weights.items():
        assert torch.equal(value == 0, light.tensors[name] == 0), name
        assert not torch.equal(value, light.tensors[name]), name


def test_what_was_learned_on_4_bits_is_added_to_the_weights_as_they_are() -> None:
    """Were it added to the base, every weight would be off by what rounding to NF4 costs."""
    light = _pruned()
    healed = _heal(light, replace(TRAINING, learning_rate=1e-5, epochs=1), on_nf4=True)
    for name, value in healed.weights.items():
        torch.testing.assert_close(value, light.tensors[name], rtol=0, atol=1e-3)


@pytest.mark.parametrize("on_nf4", [False, True])
def test_broken_off_it_goes_on_to_the_same_bytes(on_nf4: bool) -> None:
    light, place = _pruned(), Place()
    whole = _heal(light, on_nf4=on_nf4)
    with pytest.raises(Stopped):
        _heal(light, on_nf4=on_nf4, unfinished=place, announce=stop_at(4))
    again = _heal(light, on_nf4=on_nf4, unfinished=place)
    assert again.curves == whole.curves
    assert all(torch.equal(value, whole.weights[name]) for name, value in again.weights.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_come_back_in_the_dtype_they_are_stored_in(dtype: torch.dtype) -> None:
    light = _pruned()
    narrow = light.evolve({name: value.to(dtype) for name, value in light.tensors.items()})
    healed = _heal(narrow)
    assert {value.dtype for value in healed.weights.values()} == {dtype}
