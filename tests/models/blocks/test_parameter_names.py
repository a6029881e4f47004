"""Names in files against names in the model, by transformers' own loading of the same files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from transformers import AutoModelForCausalLM

from birdbone.models.blocks.parameter_names import parameter_finder


@pytest.mark.parametrize("arch", ["llama", "llama_tied", "gpt2", "gemma3", "mixtral", "gpt_oss"])
def test_every_tensor_of_a_saved_folder_finds_its_parameter(arch: str, tmp_path: Path) -> None:
    model = tiny_model(arch)
    model.save_pretrained(tmp_path)
    find, known = parameter_finder(model), model.state_dict().keys()
    for name in load_file(tmp_path / "model.safetensors"):
        renamed, found = find(name)
        assert found, name
        assert renamed in known


def test_a_parameters_own_name_is_kept() -> None:
    model = tiny_model("llama")
    find = parameter_finder(model)
    assert [find(name) for name in model.state_dict()] == [
        (name, True) for name in model.state_dict()
    ]


def test_experts_one_by_one_map_to_one_parameter() -> None:
    find = parameter_finder(tiny_model("mixtral"))
    before = "model.layers.1.block_sparse_moe.experts"
    ups = {find(f"{before}.{expert}.w3.weight") for expert in range(4)}
    gates = {find(f"{before}.{expert}.w1.weight") for expert in range(4)}
    assert ups == gates == {("model.layers.1.mlp.experts.gate_up_proj", True)}
    assert find(f"{before}.2.w2.weight") == ("model.layers.1.mlp.experts.down_proj", True)
    assert find("model.layers.1.block_sparse_moe.gate.weight") == (
        "model.layers.1.mlp.gate.weight",
        True,
    )


def test_the_prefix_of_the_base_model_may_be_missing() -> None:
    find = parameter_finder(tiny_model("gpt2"))
    assert find("h.0.attn.c_attn.weight") == ("transformer.h.0.attn.c_attn.weight", True)
    assert find("wte.weight") == ("transformer.wte.weight", True)


@pytest.mark.parametrize(
    "name", ["mtp.fc.weight", "model.layers.3.mlp.up_proj.weight", "model.layers.0.mlp.up_proj", ""]
)
def test_a_tensor_of_no_parameter_says_so(name: str) -> None:
    assert parameter_finder(tiny_model("llama"))(name) == (name, False)


def test_it_agrees_with_what_transformers_loads(tmp_path: Path) -> None:
    """Names that it reports as unexpected are those without a parameter."""
    tiny_model("llama").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    extra = {"mtp.fc.weight": torch.ones(2), "model.layers.7.mlp.up_proj.weight": torch.ones(3)}
    save_file({**load_file(path), **extra}, path, {"format": "pt"})
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    find = parameter_finder(tiny_model("llama"))
    unknown = {name for name in load_file(path) if not find(name)[1]}
    assert unknown == set(info["unexpected_keys"]) == set(extra)
