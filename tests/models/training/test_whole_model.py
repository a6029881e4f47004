import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows

from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.training.distillation import Lesson
from birdbone.models.training.optimiser import Healed
from birdbone.models.training.trainer import Training
from birdbone.models.training.whole_model import heal_all

# One text again and again, so that what is learned of it holds on the windows kept out.
LESSON = Lesson(tiny_windows(1).tokens.repeat(6, 1), None, kl_weight=0.0)
TRAINING = Training(learning_rate=1e-3, epochs=2, batch_size=1, heldout=2)


def _heal(light: Checkpoint) -> Healed:
    return heal_all(Skeleton(light, dtype=torch.float32), LESSON, TRAINING)


@pytest.mark.parametrize("arch", ["llama_tied", "gpt2", "mixtral"])
def test_every_tensor_learns_experts_embeddings_and_head_too(arch: str) -> None:
    light = tiny_checkpoint(arch)
    healed = _heal(light)
    assert healed.weights.keys() == light.refs.keys()
    assert healed.trained_parameters == light.num_parameters
    still = [name for name, value in healed.weights.items() if light.tensors[name].equal(value)]
    assert still == []
    assert min(healed.curves["heldout_loss"]) < healed.curves["heldout_loss"][0]


def test_codes_stay_and_dtypes_are_as_stored() -> None:
    dense = tiny_checkpoint()
    narrow = dense.evolve({name: value.to(torch.bfloat16) for name, value in dense.tensors.items()})
    name = "model.layers.1.mlp.up_proj.weight"
    codes = Quantized(torch.ones(64, 32, dtype=torch.int8), torch.ones(64, 2) / 32, bits=4)
    healed = _heal(narrow.evolve({name: codes}))
    assert healed.weights.keys() == dense.refs.keys() - {name}
    assert {value.dtype for value in healed.weights.values()} == {torch.bfloat16}
