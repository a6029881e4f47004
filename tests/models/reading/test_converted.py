"""Parameters made from several tensors of a folder: as transformers makes them, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from float_folders import qwen3_moe
from safetensors.torch import load_file
from tiny import tiny_model
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from birdbone.checkpoints import InMemory, TensorRef
from birdbone.errors import CheckpointError
from birdbone.models.reading.converted import converted

UP, DOWN = "model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"


class Counted(TensorRef):
    """A tensor that counts how often it is read."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.reads = tensor, 0
        self.dtype, self.shape = tensor.dtype, tuple(tensor.shape)

    def load(self) -> Tensor:
        self.reads += 1
        return self.tensor


def on_meta(model: PreTrainedModel) -> PreTrainedModel:
    return model.to("meta")


def one_by_one(model: PreTrainedModel, folder: Path) -> dict[str, Tensor]:
    """The tensors of a model's folder, in which experts are stored one by one."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def refs(tensors: Mapping[str, Tensor]) -> dict[str, TensorRef]:
    return {name: InMemory(tensor) for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    made = one_by_one(tiny_model("mixtral", num_hidden_layers=1), tmp_path_factory.mktemp("m"))
    assert sum(".experts." in name for name in made) == 12
    return made


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "llama"])
def test_it_is_what_transformers_loads(kind: str, tmp_path: Path) -> None:
    model = qwen3_moe() if kind == "qwen3_moe" else tiny_model(kind)
    tensors = one_by_one(model, tmp_path)
    wanted = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    found = converted(on_meta(model), refs(tensors))
    assert found.keys() == wanted.keys()
    for name, ref in found.items():
        made = ref.load()
        assert (ref.shape, ref.dtype) == (tuple(made.shape), made.dtype)
        assert made.is_contiguous()
        assert torch.equal(made, wanted[name]), name


def test_nothing_is_read_before_it_is_loaded(stored: dict[str, Tensor]) -> None:
    counted = {name: Counted(tensor) for name, tensor in stored.items()}
    found = converted(on_meta(tiny_model("mixtral", num_hidden_layers=1)), counted)
    assert found[UP].shape == (4, 128, 32)
    assert sum(ref.reads for ref in counted.values()) == 0
    found[DOWN].load()
    read = {name for name, ref in counted.items() if ref.reads}
    assert len(read) == 4
    assert all(".w2." in name for name in read)


def test_a_tensor_that_is_a_parameter_is_the_same_reference(stored: dict[str, Tensor]) -> None:
    given = refs(stored)
    found = converted(on_meta(tiny_model("mixtral", num_hidden_layers=1)), given)
    assert found["model.norm.weight"] is given["model.norm.weight"]


def test_tensors_without_a_parameter_are_ignored(stored: dict[str, Tensor]) -> None:
    more = {**stored, "mtp.fc.weight": torch.ones(2)}
    found = converted(on_meta(tiny_model("mixtral", num_hidden_layers=1)), refs(more))
    assert "mtp.fc.weight" not in found
    assert UP in found


def test_the_order_of_the_files_does_not_matter(stored: dict[str, Tensor]) -> None:
    """Experts are stacked by number: the tenth is not the second."""
    model = tiny_model("mixtral", num_hidden_layers=1, num_local_experts=12)
    shuffled: dict[str, Tensor] = dict(sorted(stored.items()))
    for expert in reversed(range(12)):
        for part in ("w1", "w2", "w3"):
            name = "model.layers.0.block_sparse_moe.experts.{}." + part + ".weight"
            shuffled[name.format(expert)] = stored[name.format(0)] * 0 + expert
    made = converted(on_meta(model), refs(shuffled))[DOWN].load()
    assert made[:, 0, 0].tolist() == list(range(12))


def test_tensors_of_two_dtypes_are_stacked_in_the_wider(stored: dict[str, Tensor]) -> None:
    mixed = {
        name: tensor.bfloat16() if ".experts.1." in name else tensor
        for name, tensor in stored.items()
    }
    found = converted(on_meta(tiny_model("mixtral", num_hidden_layers=1)), refs(mixed))[DOWN]
    assert found.dtype == torch.float32
    name = "model.layers.0.block_sparse_moe.experts.{}.w2.weight"
    assert torch.equal(found.load()[0], stored[name.format(0)])
    assert torch.equal(found.load()[1], stored[name.format(1)].bfloat16().float())


def test_tensors_that_do_not_fit_each_other_are_refused(stored: dict[str, Tensor]) -> None:
    name = "model.layers.0.block_sparse_moe.experts.1.w2.weight"
    broken = {**stored, name: torch.ones(3, 5)}
    with pytest.raises(CheckpointError, match=f"^tensor '{DOWN}' cannot be made from 4 tensors of"):
        converted(on_meta(tiny_model("mixtral", num_hidden_layers=1)), refs(broken))
