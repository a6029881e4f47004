"""A folder opens as the very checkpoint the model in memory is, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_checkpoint, tiny_configs, tiny_model, tiny_tokenizer

from birdbone.checkpoints import Checkpoint, Converted, InMemory, InShard
from birdbone.errors import CheckpointError, ModelError
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.reading.opening import as_checkpoint, open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.reading.tokenizer import load_tokenizer

CONVERTED = {"mixtral"}
"""Architectures whose tensors transformers renames or stacks as it loads them."""


def saved(folder: Path, arch: str = "llama", **settings: Any) -> Path:
    """A tiny model with its tokenizer, saved as transformers does."""
    tiny_model(arch).save_pretrained(folder, **settings)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def opened(folder: Path, **settings: Any) -> Checkpoint:
    return open_checkpoint(find_model(str(folder)), **settings)


def edit_config(folder: Path, **changes: Any) -> None:
    """Set keys of config.json; None removes one."""
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Set tensors of model.safetensors; None removes one."""
    weights = load_file(folder / "model.safetensors") | changes
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("arch", tiny_configs)
def test_a_saved_folder_opens_as_the_model_in_memory(arch: str, tmp_path: Path) -> None:
    found = opened(saved(tmp_path, arch))
    assert found.id == tiny_checkpoint(arch).id
    kinds = {type(ref) for ref in found.refs.values()}
    assert kinds == {InShard} if arch not in CONVERTED else InMemory not in kinds
    assert found.source == tmp_path.name


@pytest.mark.parametrize("arch", ["llama_tied", "gpt_neox", "mixtral"])
def test_a_sharded_folder_opens_the_same(arch: str, tmp_path: Path) -> None:
    saved(tmp_path, arch, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert opened(tmp_path).id == tiny_checkpoint(arch).id


def test_a_tied_tensor_saved_twice_is_taken_once(tmp_path: Path) -> None:
    saved(tmp_path, "llama_tied")
    embedding = tiny_model("llama_tied").get_input_embeddings().weight.detach()
    edit_weights(tmp_path, **{"lm_head.weight": embedding.clone()})
    assert opened(tmp_path).id == tiny_checkpoint("llama_tied").id


def test_tensors_without_the_model_prefix_are_found(tmp_path: Path) -> None:
    saved(tmp_path, "gpt2")
    weights = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): each for name, each in weights.items()}
    save_file(bare, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert opened(tmp_path).id == tiny_checkpoint("gpt2").id


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("llama", "model.layers.2.mlp.up_proj.weight"),
        ("mixtral", "model.layers.2.self_attn.q_proj.weight"),
    ],
)
def test_a_missing_tensor_is_named(arch: str, name: str, tmp_path: Path) -> None:
    edit_weights(saved(tmp_path, arch), **{name: None})
    with pytest.raises(CheckpointError, match=rf"lacks tensor '{name}' in model\.safetensors"):
        opened(tmp_path)


def test_a_config_of_another_model_is_found_out(tmp_path: Path) -> None:
    edit_config(saved(tmp_path), intermediate_size=48)
    expected = r"gate_proj\.weight' has shape \(64, 32\), but the config asks for \(48, 32\)"
    with pytest.raises(CheckpointError, match=expected):
        Skeleton(opened(tmp_path))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickled weights \(pytorch_model\.bin\)"):
        opened(tmp_path)


def test_a_broken_config_is_refused(tmp_path: Path) -> None:
    (saved(tmp_path) / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"^config\.json of '.*' cannot be read"):
        opened(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}"])
def test_a_config_without_a_model_type_is_refused(content: str, tmp_path: Path) -> None:
    (saved(tmp_path) / "config.json").write_text(content)
    with pytest.raises(ModelError, match="has no model_type"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("found", "method"), [({"quant_method": "gptq", "bits": 4}, "gptq"), ({"bits": 4}, "unknown")]
)
def test_a_quantised_folder_is_refused(found: object, method: str, tmp_path: Path) -> None:
    edit_config(saved(tmp_path), quantization_config=found)
    with pytest.raises(
        ModelError, match=rf"already quantised \({method}\), which .* use the original model"
    ):
        opened(tmp_path)


def test_an_empty_quantisation_entry_is_no_quantisation(tmp_path: Path) -> None:
    edit_config(saved(tmp_path), quantization_config={})
    assert opened(tmp_path).refs.keys() == tiny_checkpoint().refs.keys()


def test_the_dtype_is_kept_unless_another_is_asked_for(tmp_path: Path) -> None:
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path)
    found = opened(tmp_path)
    assert {ref.dtype for ref in found.refs.values()} == {torch.bfloat16}
    assert found.config["dtype"] == "bfloat16"
    wider = opened(tmp_path, dtype=torch.float32)
    assert {type(ref) for ref in wider.refs.values()} == {Converted}
    assert wider.config["dtype"] == "float32"
    for name, tensor in wider.tensors.items():
        assert torch.equal(tensor, found.tensors[name].float())


def test_a_converted_model_takes_another_dtype_too(tmp_path: Path) -> None:
    half = opened(saved(tmp_path, "mixtral"), dtype=torch.bfloat16)
    assert not any(isinstance(ref, InMemory) for ref in half.refs.values())
    assert {ref.dtype for ref in half.refs.values()} == {torch.bfloat16}


def test_the_dtype_older_configs_state_is_understood(tmp_path: Path) -> None:
    edit_config(saved(tmp_path), dtype=None, torch_dtype="float32")
    assert opened(tmp_path).id == tiny_checkpoint().id


def test_generation_settings_transformers_would_not_save_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, "mixtral")
    odd = json.dumps({"do_sample": False, "temperature": 0.5, "eos_token_id": 2})
    (tmp_path / "generation_config.json").write_text(odd)
    assert opened(tmp_path).files["generation_config.json"] == odd.encode()
    model = tiny_model()
    model.generation_config.temperature = 0.5
    kept = json.loads(as_checkpoint(model).files["generation_config.json"])
    assert kept["temperature"] == 0.5


def test_the_tokenizer_comes_back(tmp_path: Path) -> None:
    text = "the cat and the hat"
    tokenizer = load_tokenizer(opened(saved(tmp_path)))
    assert tokenizer(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]
    assert tokenizer.eos_token_id == 2


def test_a_checkpoint_without_a_tokenizer_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"'here' has no tokenizer .* put tokenizer\.json beside"):
        load_tokenizer(as_checkpoint(tiny_model(), source="here"))


def test_a_damaged_tokenizer_is_told_in_one_line(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(ModelError, match=r"^.* has no tokenizer that can be read .*weights$"):
        load_tokenizer(opened(tmp_path))


def test_a_model_in_memory_shares_its_tensors() -> None:
    model = tiny_model()
    found = as_checkpoint(model).tensors["model.norm.weight"]
    assert found.data_ptr() == model.model.norm.weight.data_ptr()


def test_progress_bars_are_left_as_they_were(tmp_path: Path) -> None:
    from transformers.utils import logging

    assert logging.is_progress_bar_enabled()
    opened(saved(tmp_path, "mixtral"))
    assert logging.is_progress_bar_enabled()


def test_a_config_that_cannot_be_read_is_told_before_the_tokenizer() -> None:
    config = {**tiny_checkpoint().config, "num_attention_heads": 7}
    broken = Checkpoint(config, {}, {}, source="here")
    with pytest.raises(ModelError, match=r"no model can be built .*attention heads \(7\)"):
        load_tokenizer(broken)
