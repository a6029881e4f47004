"""Which experts files hold one by one, and how a tensor of all of them is divided."""

import pytest
import torch
from tiny import random_model, tiny_checkpoint, tiny_model
from zoo.configs import zoo_config

from birdbone.models.blocks.experts_apart import apart, stored_apart
from birdbone.models.reading.in_memory import as_checkpoint


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gpt_oss"])
def test_models_whose_files_hold_no_single_experts(arch: str) -> None:
    assert not stored_apart(tiny_checkpoint(arch))


def test_experts_that_files_hold_one_by_one() -> None:
    places = [f"model.layers.{index}.mlp.experts" for index in range(3)]
    expected = {f"{place}.{part}" for place in places for part in ("gate_up_proj", "down_proj")}
    assert stored_apart(tiny_checkpoint("mixtral")) == expected


@pytest.mark.parametrize("arch", ["qwen3_moe", "olmoe", "deepseek_v3"])
def test_other_architectures_with_such_experts(arch: str) -> None:
    found = stored_apart(as_checkpoint(random_model(zoo_config(arch)), source="tiny/experts"))
    assert found
    assert all(".experts." in name for name in found)


def test_scales_are_divided_like_their_weights() -> None:
    model = tiny_model("mixtral")
    name = "model.layers.1.mlp.experts.gate_up_proj"
    weight = model.get_parameter(name).data
    parts, scales = apart(model, name, weight), apart(model, name, weight[..., :2].to(torch.int8))
    assert parts.keys() == scales.keys()
    gate, up = (parts[f"model.layers.1.block_sparse_moe.experts.3.w{n}.weight"] for n in (1, 3))
    assert torch.equal(torch.cat([gate, up]), weight[3])
    assert all(torch.equal(scales[n], part[:, :2].to(torch.int8)) for n, part in parts.items())
